"""`hpcdl bench`, as a user starts it, with tiny settings: a table, a JSON line, a plot."""

import json
import os
import sys

import pytest
from harness.programs import PROGRAMS, run

import hpcdl
from hpcdl.bench import bounds, timing
from hpcdl.launch.mpiexec import launcher, library

pytestmark = pytest.mark.outer

BENCH = [sys.executable, "-m", "hpcdl.cli", "bench"]


def launched(argv):
    """The command line that starts `argv` on two ranks with the launcher of this Python's MPI library."""
    return [*launcher(library()).command(2), *argv]


def bench(folder, what, *words):
    """Run ``hpcdl bench what`` with --json and --plot where it can; the finished process and its one line of results."""
    plot = ["--plot", folder / "x.png"]
    done = run(*BENCH, what, *words, "--json", folder / f"{what}.jsonl", *plot)
    assert done.returncode == 0, done.stdout + done.stderr
    [text] = (folder / f"{what}.jsonl").read_text().splitlines()
    record = json.loads(text)
    assert record["benchmark"] == what and set(record["versions"]) >= {"python", "numpy", "hpcdl"}
    assert set(record["host"]) == {"cpu", "cores", "system", "load"} and record["host"]["cpu"]
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4
    return done, record


def drawn(folder):
    return (folder / "x.png").read_bytes().startswith(b"\x89PNG")


def ordered(found):
    return 0 < found["min"] <= found["median"] <= found["max"] and found["repetitions"] >= 1


def shows(folder, name, row):
    """Whether the results in `folder` become a table with such a row."""
    done = run(sys.executable, PROGRAMS / "table.py", "--results", folder, name)
    return done.returncode == 0 and f"| {row} |" in done.stdout


@pytest.mark.parametrize("words", [[], ["allreduce"], ["codecs"], ["overlap"], ["train"]], ids=str)
def test_help(words):
    done = run(*BENCH, *words, "--help")
    assert done.returncode == 0 and "--help" in done.stdout and not done.stderr


def test_codecs(require, tmp_path):
    require("matplotlib")
    done, record = bench(tmp_path, "codecs", "--sizes", "4KiB", "600KiB", "--repeat", 2)
    assert "600 KiB" in done.stdout and "fp16 encode" in done.stdout and drawn(tmp_path)
    assert {found["bytes"] for found in record["results"]} == {4096, 600 * 1024}
    assert {found["what"] for found in record["results"]} >= {"copy", "NumPy float16", "ml_dtypes bfloat16", "none", "fp16", "bf16", "int8"}
    assert all(map(ordered, record["results"]))
    assert shows(tmp_path, "codecs", "fp16 encode")


def test_allreduce(require, tmp_path):
    require("mpi")
    require("matplotlib")
    options = ["--sizes", "1KiB", 20000, "--repeat", 2, "--codecs", "none", "int8", "--collectives", "all", "--calls", "blocking"]
    done, record = bench(tmp_path, "allreduce", "-n", 2, *options, "--storage", "own")
    assert record["ranks"] == 2 and record["versions"]["mpi"].rpartition(" ")[0] in ("Open MPI", "MPICH")
    pairs = {(found["collective"], found["codec"]) for found in record["results"]}
    wanted = {("MPI.Allreduce", "none"), ("copy", "none"), ("ring", "none"), ("ring", "int8"), ("native", "int8"), ("auto", "none")}
    assert pairs >= wanted and len(record["results"]) == 2 * len(pairs)
    assert all(ordered(found) and found["repetitions"] == 2 for found in record["results"])
    assert "20000 B" in done.stdout and "ring, int8" in done.stdout and drawn(tmp_path)
    assert shows(tmp_path, "allreduce", "ring, int8")


def test_allreduce_by_default_has_both_storages_and_calls(require, tmp_path):
    require("mpi")
    done = run(*BENCH, "allreduce", "-n", 2, "--sizes", "4KiB", "--repeat", 2, "--json", tmp_path / "x.jsonl")
    assert done.returncode == 0, done.stderr
    found = {(each["storage"], each["call"]) for each in json.loads((tmp_path / "x.jsonl").read_text())["results"]}
    storages = {"own", "bucket"} if hasattr(hpcdl.World, "buffer") else {"own"}
    assert found == {(storage, call) for storage in storages for call in ("blocking", "async")}


def test_within_a_time_all_ranks_make_the_same_number_of_repetitions(require, tmp_path):
    require("mpi")
    _, record = bench(tmp_path, "allreduce", "-n", 2, "--sizes", 4, "--seconds", 1)  # else the ranks would wait for one another
    assert all(timing.LEAST <= found["repetitions"] <= timing.MOST for found in record["results"])


def test_under_a_launcher_of_the_user(require):
    require("mpi")
    done = run(*launched([*BENCH, "allreduce", "--sizes", "1KiB", "--repeat", "2"]))
    assert done.returncode == 0 and done.stdout.count("2 ranks on 1 node:") == 1, done.stdout + done.stderr
    done = run(*launched([*BENCH, "allreduce", "-n", "3"]))
    assert done.returncode == 2 and done.stderr.count("-n 3: this is already a job of 2 ranks; leave -n out") == 1
    done = run(*launched([*BENCH, "codecs", "--sizes", "4KiB", "--repeat", "2"]))
    assert done.returncode == 0 and done.stdout.count("4 KiB, GB/s") == 1


def test_overlap(require, tmp_path):
    require("mpi")
    require("matplotlib")
    done, record = bench(tmp_path, "overlap", "-n", 2, "--size", "256KiB", "--bucket", "64KiB", "--repeat", 3, "--codec", "fp16")
    own = record["results"][0]
    assert own["side"] == "hpcdl, fp16" and own["batch"] >= 1 and all(ordered(own[part]) for part in ("compute", "communication", "step"))
    buckets = len(record["sizes"]) - 1  # a layer each
    assert own["most"] == pytest.approx(1 - 1 / buckets, abs=0.03), "the last bucket cannot be hidden"
    low, high = own["hidden"]["quartiles"]
    assert low <= own["hidden"]["median"] <= high
    assert 0 < own["backward"] < own["compute"]["max"] and own["cpu_seconds"]["step"] > 0
    torch = "torch" in record["versions"]
    assert [found["side"] for found in record["results"][1:]] == (["torch DDP, gloo"] if torch else [])
    assert ("torch DDP over gloo: left out, torch is not installed on 2 of 2 ranks" in done.stdout) is not torch
    assert "hidden" in done.stdout and drawn(tmp_path)


@pytest.mark.parametrize("data", ["digits", "synthetic"])
def test_train(require, tmp_path, data):
    require("mpi")
    require("matplotlib")
    if data == "digits":
        require("sklearn")
    options = ["--codecs", "none", "fp16", "--collective", "ring", "--epochs", 1, "--repeat", 2, "--hidden", 32, "--data", data]
    done, record = bench(tmp_path, "train", "-n", 2, *options)
    assert [(found["ranks"], found["codec"]) for found in record["results"]] == [(1, "none"), (2, "none"), (2, "fp16")]
    assert all(ordered(found[part]) for found in record["results"] for part in ("compute", "waiting", "optimizer", "total"))
    alone, plain, short = (found["bytes_per_step"] for found in record["results"])
    assert alone == 0 and 0.45 < short / plain < 0.6
    assert all(found["accuracy"] > 0.25 for found in record["results"])
    assert "steps per second" in done.stdout and drawn(tmp_path)


def test_without_matplotlib_all_but_the_plot_is_there(tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'matplotlib' else find(name, package)\n"
    )
    words = ["codecs", "--sizes", "4KiB", "--repeat", 1, "--json", tmp_path / "x.jsonl", "--plot", tmp_path / "x.png"]
    done = run(*BENCH, *words, PATH_FIRST=str(tmp_path / "hidden"))
    assert done.returncode == 0 and "fp16 encode" in done.stdout and (tmp_path / "x.jsonl").is_file()
    assert done.stdout.count("pip install 'hpcdl[bench]'") == 1 and not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["codecs", "--codecs", "fp8"], "unknown codec 'fp8'; known: "),
        (["codecs", "--sizes", "7"], "'7': give a multiple of 4 bytes"),
        (["allreduce", "--collectives", "star"], "unknown collective 'star'; known: all, auto, "),
        (["allreduce", "-n", "0"], "'0': give a whole number of at least 1"),
        (["allreduce", "--rate", "fast"], "'fast': give bits per second, as in 200mbit"),
        (["overlap", "--plot", "no/such/folder/x.png"], "cannot write to no/such/folder/x.png"),
        (["train", "--data", "mnist"], "invalid choice: 'mnist'"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_bad_option(words, said):
    done = run(*BENCH, *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_bad_option_is_told_once(require):
    require("mpi")
    done = run(*launched([*BENCH, "allreduce", "--collectives", "star"]))
    assert done.returncode == 2 and done.stderr.count("unknown collective 'star'; known: all, auto, ") == 1


def test_bound_of_the_link():
    """64 MiB over 4 hosts at 200 Mbit/s: 1.5 times the bytes, in frames of 1514 bytes with 1448 of payload."""
    assert bounds.ring_seconds(64 << 20, 4, 25e6) == pytest.approx(1.5 * (64 << 20) * 1514 / 1448 / 25e6)
    assert bounds.ring_seconds(64 << 20, 1, 25e6) == 0

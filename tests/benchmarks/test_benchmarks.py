"""The programs in benchmarks/, as a user starts them, with tiny settings."""

import json
import os

import pytest
from harness.programs import PROGRAMS, python

pytestmark = pytest.mark.outer


def on_two_ranks(program, *words):
    return python("-m", "hpcdl.cli", "run", "-n", 2, PROGRAMS / program, *words)


def only_line(path):
    """The one line of the results file, after the checks that hold for every benchmark."""
    [text] = path.read_text().splitlines()
    record = json.loads(text)
    assert set(record["versions"]) >= {"python", "numpy", "hpcdl"}
    assert set(record["host"]) == {"cpu", "cores", "system", "load"} and record["host"]["cpu"]
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4
    return record


def ordered(found):
    return 0 < found["min"] <= found["median"] <= found["max"] and found["repetitions"] >= 1


def shows(folder, name, row):
    """Whether the results in `folder` become a table with such a row."""
    done = python(PROGRAMS / "table.py", "--results", folder, name)
    return done.returncode == 0 and f"| {row} |" in done.stdout


def test_demo(require, tmp_path):
    require("mpi")
    require("sklearn")
    options = ["--ranks", 1, 2, "--codecs", "fp16", "--epochs", 1, "--repeat", 1, "--json", tmp_path / "demo.jsonl"]
    done = python(PROGRAMS / "demo.py", *options)
    assert done.returncode == 0, done.stderr
    record = only_line(tmp_path / "demo.jsonl")
    assert [(found["ranks"], found["codec"]) for found in record["results"]] == [(1, "fp16"), (2, "fp16")]
    assert all(ordered(found[part]) for found in record["results"] for part in ("compute", "waiting", "optimizer", "total"))
    assert shows(tmp_path, "demo", "2, fp16")


def test_convergence(require, tmp_path):
    require("mpi")
    require("sklearn")
    path = tmp_path / "convergence.jsonl"
    options = ["--models", "perceptron", "--codecs", "topk:ratio=0.02", "int8", "--seeds", 1, "--epochs", 4, "--json", path]
    done = on_two_ranks("convergence.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    record = only_line(path)
    assert (record["ranks"], record["margin"]) == (2, 1.0)
    assert [found["codec"] for found in record["results"]] == ["none", "topk:ratio=0.02", "int8"]
    assert all(found["mean"] > 80 and found["within"] for found in record["results"])
    assert [found["error_feedback"] for found in record["results"]] == [False, True, False]
    assert record["results"][1]["bytes_ratio"] < 0.05
    rendered = python(PROGRAMS / "table.py", "--results", tmp_path, "convergence")
    assert "| topk:ratio=0.02 | " in rendered.stdout and "perceptron: accuracy" in rendered.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo.py", "--codecs", "fp8"], "unknown codec 'fp8'; known: "),
        (["demo.py", "--repeat", "0"], "'0': give a whole number of at least 1"),
        (["demo.py", "--json", "no/such/folder/x.jsonl"], "cannot write to no/such/folder/x.jsonl"),
        (
            ["table.py", "speed"],
            "unknown table 'speed'; known: codecs, allreduce, allreduce-all, demo, convergence, horovod-ops, train-torch",
        ),
    ],
)
def test_bad_option(words, said):
    done = python(PROGRAMS / words[0], *words[1:])
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr

"""benchmarks/versus.py with whatever peers are here, and the table of targets on results made up here."""

import json
import os
from importlib.util import find_spec

import pytest
from harness.programs import PROGRAMS, python

import hpcdl

pytestmark = pytest.mark.outer


def test_versus(require, tmp_path):
    require("mpi")
    options = ["--ranks", 2, "--rounds", 2, "--seconds", 1, "--sizes", "1KiB", "1MiB", "--json", tmp_path / "versus.jsonl"]
    done = python(PROGRAMS / "versus.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    [text] = (tmp_path / "versus.jsonl").read_text().splitlines()
    record = json.loads(text)
    assert record["ranks"] == 2 and record["versions"]["mpi"]
    assert record["host"]["cpu"] in " ".join(done.stdout.split())  # the table's title may take two lines
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4
    found = {each["what"] for each in record["results"]}
    assert found >= {"copy", "MPI.Allreduce", "hpcdl own", "hpcdl async", "MPI.Iallreduce"}
    assert ("torch gloo" in found) is (find_spec("torch") is not None)
    for what in {"torch gloo", "Horovod"} - found - {name.partition(",")[0] for name in found}:
        assert record["missing"][what] in done.stdout, "the reason is told"
    storages = ["bucket", "own"] if hasattr(hpcdl.World, "buffer") else ["own"]
    assert [(each["storage"], each["bytes"]) for each in record["ratios"]] == [(each, n) for each in storages for n in (1024, 1 << 20)]
    for each in [*record["ratios"], *record["over_copy"], *record["means"].values(), record["small"]["over_mpi"]]:
        low, high = each["quartiles"]
        assert 0 < low <= each["median"] <= high
    assert all(each["peer"] in found - {"copy", "MPI.Iallreduce"} and not each["peer"].startswith("hpcdl") for each in record["ratios"])
    assert record["means"]["own"]["worst"] == record["ratios"][-1]["median"], "one large size: it is the worst, and the mean"
    assert all(0 <= share < 4 for share in record["idle"].values())
    shown = python(PROGRAMS / "table.py", "--results", tmp_path, "targets")
    assert shown.returncode == 0 and "2 ranks: " in shown.stdout and shown.stdout.count("| not measured |") >= 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--python", "no/such/python"], "'no/such/python': there is no such interpreter"),
        (["--cycle-time", "0"], "'0': give milliseconds, more than 0"),
        (["--sizes", "1"], "'1': give a multiple of 4 bytes"),
    ],
)
def test_bad_option(words, said):
    done = python(PROGRAMS / "versus.py", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_job_that_cannot_start_ends_the_run_with_its_own_words(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no MPI here' >&2\nexit 3\n")
    broken.chmod(0o755)
    done = python(PROGRAMS / "versus.py", "--python", broken, "--ranks", 2)
    assert done.returncode == 1 and "no MPI here" in done.stderr and str(broken) in done.stderr and "Traceback" not in done.stderr


def line(benchmark, results=(), **facts):
    return {
        "benchmark": benchmark,
        "date": "2030-01-02",
        "versions": {"python": "3.12.1", "mpi": "MPICH 5.0.2"},
        "host": {"cpu": "Abacus", "cores": 8, "system": "Linux", "load": 0.5},
        "results": list(results),
        **facts,
    }


def rows(folder, *records):
    """The table of targets as ``{what: (measured, verdict)}``."""
    for record in records:
        with (folder / f"{record['benchmark']}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    done = python(PROGRAMS / "table.py", "--results", folder, "targets")
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in text.split("|")[1:-1]] for text in done.stdout.splitlines() if text.startswith("|")]
    return {what: (measured, verdict) for what, _, measured, verdict in cells[2:]}


def spread(median):
    return {"median": median, "quartiles": [median * 0.8, median * 1.25]}


def versus(ranks, bucket, worst, over, times):
    means = {"bucket": {**spread(bucket), "worst": worst}, "own": {**spread(0.5), "worst": 1.2}}
    small = {"bytes": 1024, "over_mpi_us": spread(over), "over_mpi": spread(times), "async_us": spread(60.0), "mpi_async_us": spread(3.0)}
    copy = [{"storage": "bucket", "bytes": 64 << 20, **spread(1.4)}]
    return line("versus", ranks=ranks, means=means, small=small, over_copy=copy)


def test_targets_of_one_node(tmp_path):
    found = rows(tmp_path, versus(2, 0.25, 0.9, 4.0, 3.0), versus(4, 0.5, 0.9, 9.0, 1.4))
    bucket, verdict = found["1, 4, 16, 64 MiB float32 in bucket storage, one node"]
    assert bucket == "MPICH, 2 ranks: 4.00× (3.20–5.00), worst size 1.11× ✓<br>MPICH, 4 ranks: 2.00× (1.60–2.50), worst size 1.11× ✗"
    assert verdict == "in part"
    assert found["the same sizes from a user's own array, in place"][1] == "NOT MET", "a size is more than 10 % slower"
    assert found["64 MiB in bucket storage, 2 ranks"] == ("MPICH, 2 ranks: 1.40× (1.12–1.75)", "met")
    assert found["1 KiB, one node, blocking"][1] == "met"
    assert found["1 KiB, one node, asynchronous"] == ("MPICH, 2 ranks: 60.0 µs<br>MPICH, 4 ranks: 60.0 µs", "NOT MET")
    assert found["bytes on the wire"] == ("not measured", "")


def test_targets_between_hosts(tmp_path):
    def result(collective, codec, of_bound, faster, right=None):
        return {"collective": collective, "codec": codec, "bytes": 64 << 20, "of_bound": of_bound, "faster": faster, "counted_right": right}

    four = [result("ring", "none", 1.02, 1.0, True), *(result("ring", codec, 1.1, 1.95, True) for codec in ("fp16", "bf16", "int8"))]
    side = {"side": "hpcdl", "hidden": {"median": 0.72, "quartiles": [0.63, 0.81]}, "most": 0.9, "cpu_seconds": {"progress": 0.1}}
    ddp = {"side": "torch DDP, gloo", "hidden": {"median": 0.45, "quartiles": [0.36, 0.54]}, "most": 0.9, "cpu_seconds": {}}
    overlap = {"ranks": 4, "nodes": 4, "rate": 25e6, "codec": "none", "bucket_bytes": 4 << 20}
    found = rows(
        tmp_path,
        line("hosts", four, hosts=4, ranks=4),
        line("hosts", [result("two-level", "none", 1.2, 1.0)], hosts=2, ranks=4),
        line("overlap", [side, ddp], memory={"gradients": 64 << 20, "wires": 1 << 20}, **overlap),
    )
    assert found["64 MiB float32, 4 hosts at 200 Mbit/s"] == ("MPICH: 1.020×", "met")
    assert found["the same with fp16, bf16, int8"] == ("MPICH: fp16 1.95×, bf16 1.95×, int8 1.95×", "NOT MET")
    assert found["2 hosts x 2 ranks at 200 Mbit/s, two-level"] == ("MPICH: 1.200×", "NOT MET")
    hidden = "MPICH, hpcdl: 80% (70%–90%); progress loop 0.1 CPU s a step<br>MPICH, torch DDP, gloo: 50% (40%–60%)"
    assert found["training step on 4 hosts at 200 Mbit/s, real backward as long as communication"] == (hidden, "met")
    assert found["bytes on the wire"] == ("MPICH, 4 hosts, ring: none, fp16, bf16, int8", "met")
    assert found["memory beyond the model"] == ("MPICH, 4 hosts, none: gradients 64.0 MiB, wires 1.0 MiB", "met")

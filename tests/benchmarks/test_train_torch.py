"""benchmarks/train_torch.py with whatever peers are here, and the tables of its results, made up here."""

import json
import os
from importlib.util import find_spec

import pytest
from harness.programs import PROGRAMS, python

pytestmark = pytest.mark.outer

GLOO = "DDP over gloo"
ALWAYS = {"no communication", "door 1", "door 1, fp16", "door 1, int8", GLOO, f"{GLOO}, default buckets", f"{GLOO}, fp16 hook"}


def spread(found):
    low, high = found["quartiles"]
    return low <= found["median"] <= high


def test_two_ranks(require, tmp_path):
    require("mpi")
    require("torch")
    options = ["--ranks", 2, "--rounds", 2, "--seconds", 1, "--networks", "digits", "--json", tmp_path / "train_torch.jsonl"]
    done = python(PROGRAMS / "train_torch.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    [text] = (tmp_path / "train_torch.jsonl").read_text().splitlines()
    record = json.loads(text)
    assert (record["benchmark"], record["network"], record["ranks"], record["hosts"], record["rate"]) == (
        "train_torch",
        "digits",
        2,
        1,
        None,
    )
    assert (record["batch"], record["parameters"], record["bucket_bytes"]) == (32, 38410, 4 << 20)
    assert record["rounds"] == 2 and record["steps"] >= 1 and record["memory"] == {}
    assert set(record["versions"]) >= {"torch", "mpi", "mpi4py", "hpcdl"} and record["host"]["cpu"] in " ".join(done.stdout.split())
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4
    results = {found["way"]: found for found in record["results"]}
    assert set(results) >= ALWAYS
    for what in {"Horovod", "DDP over hpcdl"} - set(results):
        assert record["missing"][what] in done.stdout, "the reason is told"
    assert any(way.startswith("Horovod") for way in results) is (find_spec("horovod") is not None)
    for way, found in results.items():
        assert 0 < found["min"] <= found["median"] <= found["max"] and found["repetitions"] == 2 and found["cpu_seconds"] > 0
        assert ("over_gloo" in found) is (way != "no communication")
        if way != "no communication":
            assert spread(found["over_gloo"]) and spread(found["communication"]) and found["communication"]["median"] < 1
        assert ("rival" in found) is (found["family"] in ("door 1", "door 2"))
        if found["family"] == "door 1":
            assert results[found["rival"]["way"]]["family"] in ("peer", "door 2") and spread(found["rival"])
    assert results[GLOO]["over_gloo"]["median"] == 1
    assert all(0 <= share < 4 for share in record["idle"].values())
    shown = python(PROGRAMS / "table.py", "--results", tmp_path, "train-torch", "targets")
    assert shown.returncode == 0 and "2 ranks, ms per training step" in shown.stdout and "2 ranks: digits " in shown.stdout


def test_memory_of_each_way(require, tmp_path):
    require("mpi")
    require("torch")
    path = tmp_path / "train_torch.jsonl"
    options = ["--ranks", 1, "--rounds", 1, "--seconds", 1, "--networks", "wide", "--memory", "no communication", "door 1", "--json", path]
    done = python(PROGRAMS / "train_torch.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    memory = json.loads(path.read_text())["memory"]
    if not memory:
        pytest.skip("this system does not tell how much memory a process has held at most")
    assert list(memory) == ["no communication", "door 1"]
    needed = 2 * 4 * 4204554  # parameters and gradients
    assert 0.9 * needed < memory["no communication"]["later"] < 1.2 * needed
    assert all(0.9 * needed < found["later"] <= found["most"] < 4 * needed for found in memory.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--networks", "resnet"], "invalid choice: 'resnet'"),
        (["--python", "no/such/python"], "'no/such/python': there is no such interpreter"),
        (["--rate", "fast"], "rate 'fast': give a number above 0 and a unit"),
        (["--cycle-time", "soon"], "'soon'"),
    ],
)
def test_bad_option(require, words, said):
    require("torch")
    done = python(PROGRAMS / "train_torch.py", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def line(network, hosts, *results, ranks=4, mpi="MPICH 5.0.2", memory=None):
    return {
        "benchmark": "train_torch",
        "date": "2030-01-02",
        "versions": {"python": "3.12.1", "mpi": mpi, "torch": "2.13"},
        "host": {"cpu": "Abacus", "cores": 8, "system": "Linux", "load": 0.5},
        "network": network,
        "ranks": ranks,
        "hosts": hosts,
        "rate": "200mbit" if hosts > 1 else None,
        "memory": memory or {},
        "results": list(results),
    }


def result(way, ms, gloo=None, rival=None, communication=0.4):
    def ratio(median):
        return {"median": median, "quartiles": [median * 0.8, median * 1.25]}

    found = {"way": way, "median": ms / 1e3}
    found |= {"over_gloo": ratio(gloo), "communication": ratio(communication)} if gloo else {}
    return {**found, **({"rival": {"way": "Horovod", **ratio(rival)}} if rival else {})}


@pytest.fixture
def tables(tmp_path):
    """`tables(name, *records)`: the rows of that table, as lists of cells."""

    def render(name, *records):
        (tmp_path / "train_torch.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        done = python(PROGRAMS / "table.py", "--results", tmp_path, name)
        assert done.returncode == 0, done.stderr
        return [[cell.strip() for cell in text.split("|")[1:-1]] for text in done.stdout.splitlines() if text.startswith("|")]

    return render


def test_a_table_of_all_networks(tables):
    old = line("digits", 1, result("no communication", 1), result(GLOO, 9, 1.0), result("door 1", 9, 1.0, 1.0))
    digits = line("digits", 1, result("no communication", 1), result(GLOO, 4, 1.0), result("door 1", 2, 0.5, 0.8))
    gpt = line("gpt", 1, result("no communication", 10), result(GLOO, 20, 1.0), result("Horovod", 30, 1.5))
    rows = tables("train-torch", old, digits, gpt)
    assert rows[0] == ["", "digits", "gpt"]
    assert rows[2:] == [["no communication", "1", "10"], [GLOO, "4", "20"], ["door 1", "2 (0.50×)", ""], ["Horovod", "", "30 (1.50×)"]]


def test_targets(tables):
    light = line("digits", 1, result(GLOO, 4, 1.0), result("door 1", 4, 1.0, 0.8), result("DDP over hpcdl", 4, 1.25, 1.25))
    heavy = line(
        "wide",
        1,
        result(GLOO, 4, 1.0, communication=0.6),
        result("door 1", 2, 0.5, 0.5),
        memory={"door 1": {"most": 44 << 20, "later": 40 << 20}},
    )
    peer = result(GLOO, 9, 1.0, communication=0.9)
    hosts = line("wide", 4, peer, result("door 1", 9, 1.0, 1.0), result("door 1, fp16", 5, 0.5, 1.25), result("door 1, int8", 3, 0.5, 0.5))
    rows = {what: (measured, verdict) for what, _, measured, verdict in tables("targets", light, heavy, hosts)[2:]}
    rows = [found for what, found in rows.items() if measured_here(what)]
    assert rows == [
        ("MPICH, 4 ranks: digits 1.25× (1.00–1.56), wide 2.00× (1.60–2.50)", "met"),
        ("MPICH, 4 ranks: wide 2.00× (1.60–2.50)", "met"),
        ("MPICH, 4 ranks: digits 0.80× (0.64–1.00)", "NOT MET"),
        ("MPICH, 4 hosts at 200mbit: wide 1.00× (0.80–1.25), wide fp16 0.80× (0.64–1.00)", "NOT MET"),
        ("MPICH, 4 hosts at 200mbit: wide 2.00× (1.60–2.50)", "met"),
        ("MPICH, 4 ranks: door 1 44 (40) MiB", ""),
    ]


def measured_here(what):
    return "torch" in what.lower() or what.startswith(("the same beside DDP", "the same with int8"))

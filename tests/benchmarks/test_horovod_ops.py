"""benchmarks/horovod_ops.py, where a Horovod is."""

from __future__ import annotations

import json

import pytest
from harness.programs import PROGRAMS, python

pytestmark = pytest.mark.outer


def test_horovod_ops(require, tmp_path) -> None:
    require("mpi")
    require("horovod")
    options = [
        "--ranks",
        2,
        "--rounds",
        2,
        "--seconds",
        1,
        "--sizes",
        "1KiB",
        "1MiB",
        "--networks",
        "digits",
        "--json",
        tmp_path / "ops.jsonl",
    ]
    done = python(PROGRAMS / "horovod_ops.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = map(json.loads, (tmp_path / "ops.jsonl").read_text().splitlines())
    labels = ["hpcdl.horovod", "Horovod, default", "Horovod, cycle 0.1 ms"]
    assert list(dict.fromkeys(each["what"] for each in record["results"])) == labels
    items = [1024, 1 << 20, "digits"]
    assert [(each.get("bytes", each.get("network")), each["peer"]) for each in record["ratios"]] == [
        (item, label) for item in items for label in labels[1:]
    ]
    for each in record["ratios"]:
        low, high = each["quartiles"]
        assert 0 < low <= each["median"] <= high
    assert list(record["idle"]) == labels


def test_a_ratio_below_one_says_that_hpcdl_is_faster(monkeypatch) -> None:
    monkeypatch.syspath_prepend(PROGRAMS)
    import horovod_ops

    times = {1024: {"hpcdl.horovod": [[1.0, 1.0, 9.0], [2.0]], "Horovod, default": [[2.0], [4.0]]}}
    assert horovod_ops.compare(times, "bytes") == [{"bytes": 1024, "peer": "Horovod, default", "median": 0.5, "quartiles": [0.5, 0.5]}]

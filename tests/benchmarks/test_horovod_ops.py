"""benchmarks/horovod_ops.py, where a Horovod is."""

from __future__ import annotations

import json

import pytest
from harness.programs import PROGRAMS, python

pytestmark = pytest.mark.outer


def test_horovod_ops(require, tmp_path) -> None:
    require("mpi")
    require("horovod")
    options = ["--ranks", 2, "--rounds", 2, "--seconds", 1, "--sizes", "1KiB", "1MiB", "--json", tmp_path / "ops.jsonl"]
    done = python(PROGRAMS / "horovod_ops.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = map(json.loads, (tmp_path / "ops.jsonl").read_text().splitlines())
    labels = ["hpcdl.horovod", "Horovod, default", "Horovod, cycle 0.1 ms"]
    assert list(dict.fromkeys(each["what"] for each in record["results"])) == labels
    assert [(each["bytes"], each["peer"]) for each in record["ratios"]] == [(n, label) for n in (1024, 1 << 20) for label in labels[1:]]
    for each in record["ratios"]:
        low, high = each["quartiles"]
        assert 0 < low <= each["median"] <= high
    assert list(record["idle"]) == labels

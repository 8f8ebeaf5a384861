"""`hpcdl demo --device cuda` as a user starts it."""

import json

import pytest
from harness.programs import PROGRAMS, python


@pytest.mark.outer
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_demo(cupy, require, tmp_path, size, codec):
    require("mpi")
    require("sklearn")
    words = ["demo", "-n", size, "--codec", codec, "--epochs", 10, "--device", "cuda", "--json", tmp_path / "report.json"]
    done = python("-m", "hpcdl.cli", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["replicas_equal"] and report["device"] and min(report["step_seconds"].values()) >= 0
    assert abs(report["test_loss"] - report["single_process"]["test_loss"]) <= (1e-3 if codec == "none" else 0.05)
    assert {"cupy", "CUDA driver"} <= set(report["versions"])


@pytest.mark.outer
def test_codecs_benchmark(cupy, tmp_path):
    """A tiny run of the benchmark: what it records has names, versions and the GPU."""
    words = ["--parts", "codecs", "--codec-bytes", "4MiB", "--repeat", 3, "--json", tmp_path / "gpu.jsonl"]
    done = python(PROGRAMS / "gpu.py", *words)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "gpu.jsonl").read_text())
    assert record["gpu"] and record["cuda"]["CUDA driver"] and {row["part"] for row in record["results"]} == {"codecs"}

"""`hpcdl demo` as a user starts it: real ranks, real data, and what the report claims."""

import gzip
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from hpcdl.arrays.gpu import why_no_gpu
from hpcdl.numpy import idx

pytestmark = pytest.mark.outer


@pytest.fixture
def demo(require, tmp_path):
    """`demo(*options)` -> (exit code, report or None, output)."""
    require("mpi")

    def run(*words):
        path = tmp_path / "report.json"
        command = [sys.executable, "-m", "hpcdl.cli", "demo", "--json", str(path), *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        report = json.loads(path.read_text()) if path.exists() else None
        return done.returncode, report, done.stdout + done.stderr

    return run


def test_defaults(demo, require):
    require("sklearn")
    code, report, output = demo()
    assert code == 0, output
    assert report["ranks"] == 4 and report["codec"] == "fp16" and report["collective"] == "ring"
    assert report["test_accuracy"] >= 0.96
    assert abs(report["test_accuracy"] - report["single_process"]["test_accuracy"]) <= 0.015
    assert report["replicas_equal"] is True
    assert 0.45 < report["wire_ratio"] < 0.55
    network = 64 * 512 + 512 + 512 * 10 + 10
    assert report["wire_bytes_per_step"] == pytest.approx(2 * 3 / 4 * 2 * network, rel=0.05)  # the ring's 2 (p-1)/p n, 2 bytes each
    assert 0 <= report["waiting_share"] <= 1 and report["samples_per_second"] > 0 and min(report["step_seconds"].values()) > 0
    lines = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert len(lines) == report["epochs"], "one plain line per epoch, from rank 0 alone"
    assert "replicas bitwise equal" in output and "\x1b[" not in output


def test_same_seed_same_result_other_seed_other_result(demo, require):
    require("sklearn")
    words = ["-n", "2", "--epochs", "1", "--hidden", "32,16", "--codec", "int8", "--collective", "tree", "--seed"]
    first, again, other = (demo(*words, seed)[1] for seed in ("3", "3", "4"))
    assert first["network"] == "64-32-16-10"
    assert first["test_loss"] == again["test_loss"] != other["test_loss"]


def test_exact_codec_equals_one_process(demo, require):
    require("sklearn")
    code, report, output = demo("-n", "3", "--codec", "none", "--epochs", "3", "--optimizer", "momentum", "--lr", "0.02", "--check-finite")
    assert code == 0, output
    assert abs(report["loss_difference"]) < 1e-5 and report["wire_ratio"] == pytest.approx(1, abs=0.01)


def write(path, array, pack=bytes):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(pack(header + array.astype(np.uint8).tobytes()))


def test_folder_of_idx_files(demo, tmp_path):
    random = np.random.default_rng(0)
    for (images, labels), n in ((idx.NAMES[:2], 200), (idx.NAMES[2:], 60)):
        classes = random.integers(0, 4, n)
        pixels = random.integers(0, 60, (n, 28, 28))
        pixels[np.arange(n), :, 5 * classes] = 255  # a bright column says which class it is
        write(tmp_path / f"{images}.gz", pixels, gzip.compress)
        write(tmp_path / labels, classes)
    code, report, output = demo("-n", "2", "--data", str(tmp_path), "--epochs", "8")
    assert code == 0, output
    assert report["network"] == "784-512-4" and report["test_accuracy"] >= 0.96
    content = (tmp_path / idx.NAMES[1]).read_bytes()
    (tmp_path / idx.NAMES[1]).write_bytes(content[:-1])
    code, _, output = demo("-n", "2", "--data", str(tmp_path))
    assert code != 0 and "only 199 bytes" in output and "Traceback" not in output


def test_no_ranks(demo):
    code, report, output = demo("-n", "0")
    assert code == 2 and report is None and "at least 1 rank" in output and "Traceback" not in output


def test_cuda(demo):
    if why_no_gpu():
        code, report, output = demo("--device", "cuda")
        assert code == 2 and report is None and "--device cuda: CuPy" in output and "cure:" in output and "Traceback" not in output

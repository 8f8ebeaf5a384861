"""benchmarks/gpu.py: it refuses politely without a GPU, and what it makes of what it measures. The figures themselves need a GPU."""

import json
import runpy
import sys

import pytest
from device.conftest import installed
from device.fake_cupy import Machine
from harness.programs import PROGRAMS, python

from hpcdl.arrays.gpu import Gpu, why_no_gpu


@pytest.fixture
def gpu(monkeypatch):
    """The program's own names."""
    monkeypatch.syspath_prepend(str(PROGRAMS))
    found = runpy.run_path(str(PROGRAMS / "gpu.py"), run_name="gpu")
    yield type("Program", (), {name: staticmethod(value) if callable(value) else value for name, value in found.items()})
    sys.modules.pop("bench", None)  # another folder may have one, too


@pytest.mark.outer
def test_without_a_gpu_nothing_is_measured(tmp_path):
    if not why_no_gpu():
        pytest.skip("there is a GPU here")
    done = python(PROGRAMS / "gpu.py", "--json", tmp_path / "gpu.jsonl")
    assert done.returncode == 2 and not (tmp_path / "gpu.jsonl").exists()
    assert done.stderr.startswith("gpu.py: nothing is measured: CuPy") and "cure:" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.outer
@pytest.mark.parametrize("words", [["--parts", "everything"], ["--ranks", "0"], ["--sizes", "7"], ["--paths", "magic"]], ids=str)
def test_bad_options(words):
    done = python(PROGRAMS / "gpu.py", *words)
    assert done.returncode == 2 and "gpu.py: error:" in done.stderr


def test_rows_of_codecs(gpu):
    todo = {("copy", "copy"): (8_000_000_000, None), ("fp16", "encode"): (6_000_000_000, None)}
    rows = gpu.codec_rows(todo, {("copy", "copy"): [0.002, 0.004, 0.016], ("fp16", "encode"): [0.004, 0.004, 0.002]})
    assert [(row["gb_per_second"], row["of_copy"]) for row in rows] == [(2000.0, 1.0), (1500.0, 0.75)]
    assert rows[1]["seconds"] == {"min": 0.002, "median": 0.004, "max": 0.004, "repetitions": 3}


def test_codecs_are_called_and_timed_by_events(gpu):
    """On the double, whose times mean nothing: every codec in both directions, in turn, in one stream, and no round that is not whole."""
    with installed(Machine()) as cupy:
        from hpcdl.arrays.device import DEVICE

        with Gpu(0) as there:
            todo = gpu.actions(there.xp, 4 * 1000)
            seconds = gpu.timed(todo, DEVICE, 3)
        assert (
            set(seconds) == set(todo) >= {("copy", "copy"), ("fp16", "decode and add"), ("sign", "encode"), ("topk:ratio=0.01", "decode")}
        )
        assert all(len(each) == 3 and min(each) > 0 for each in seconds.values())
        assert todo["fp16", "encode"][0] == 4000 + gpu.by_name("fp16").nbytes(1000)
        assert not cupy.machine.waits


def test_what_cannot_be_measured_is_told(gpu, capsys):
    rows, skipped = [], {}
    gpu.settled(rows, skipped, "demo", {"ranks": 2})
    gpu.settled(rows, skipped, "GPT", "no PyTorch")
    gpu.settled(rows, skipped, "all-reduce", [{"ranks": 4}, {"ranks": 4}])
    assert (len(rows), skipped) == (3, {"GPT": "no PyTorch"})
    assert (
        gpu.reason("Traceback\nhpcdl.errors.LaunchError: device path 'nccl' cannot be\nmore")
        == "hpcdl.errors.LaunchError: device path 'nccl' cannot be"
    )
    assert gpu.reason("first\nlast\n\n") == "last"
    assert "nothing" in gpu.reason("")


def test_the_tables(gpu, capsys):
    seconds = {"min": 0.001, "median": 0.002, "max": 0.0035, "repetitions": 5}
    results = {
        "codecs": [{"codec": "fp16", "direction": "encode", "seconds": seconds, "gb_per_second": 2345.6, "of_copy": 0.87}],
        "allreduce": [{"ranks": 2, "who": "hpcdl fp16", "path": "staged", "bytes": 1 << 20, "seconds": seconds}],
        "demo": [{"ranks": 2, "device": "a GPU", "samples_per_second": 12345.6, "test_accuracy": 0.97}],
        "gpt": [{"ranks": 2, "device": "a GPU", "codec": "int8", "seconds": seconds, "loss": 2.5}],
    }
    gpu.show(json.loads(json.dumps(results)), {"NCCL": "one GPU"}, "a GPU")
    said = capsys.readouterr().out
    for text in (
        "fp16 encode",
        "2345.6",
        "87%",
        "2 hpcdl fp16, staged",
        "1 MiB",
        "2/1/3.5",
        "12,346",
        "97.00%",
        "2 on a GPU, int8",
        "2.5000",
    ):
        assert text in said, text
    assert "not measured: NCCL: one GPU" in said


@pytest.mark.outer
def test_a_job_that_hangs_is_ended(gpu, require, monkeypatch, tmp_path):
    require("mpi")
    monkeypatch.setitem(gpu.ended.__globals__, "_LIMIT", 3)
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(1000)\n")
    code, said = gpu.ended(["run", "-n", 2, script])
    assert code == 124 and gpu.reason(said) == "not done after 3 s"

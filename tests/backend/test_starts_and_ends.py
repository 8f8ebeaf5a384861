"""How jobs begin, and how they end when a rank raises."""

from __future__ import annotations

import sys
import time

import pytest
from harness.parts import framework
from harness.programs import python, run

torch = framework("torch")

from .conftest import PROGRAMS  # noqa: E402

pytestmark = [pytest.mark.outer]


@pytest.mark.parametrize("way", ["ours", "plain", "url", "file", "renumbered"])
def test_start(program, way, tmp_path) -> None:
    process = program("starts", way, str(tmp_path / "store"), n=2)
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count(f"{way}: 2 ranks") == 2, process.stdout


def test_one_process(require) -> None:
    """Without any launcher: a world of one."""
    require("mpi4py")
    process = python(PROGRAMS / "starts.py", "ours", "")
    assert process.returncode == 0, process.stderr
    assert "ours: 1 ranks" in process.stdout


def test_torchrun() -> None:
    """It starts processes that MPI knows nothing of: they talk over TCP, and everything else is as it was."""
    for script, words, told in (("starts.py", ("plain", ""), "plain: 4 ranks"), ("messages.py", (), '"case": "batches"')):
        process = run(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 4, PROGRAMS / script, *words, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stdout + process.stderr
        assert process.stdout.count(told) == 4, process.stdout


@pytest.mark.parametrize("where", ["collective", "backward", "message"])
def test_a_rank_that_raises(program, where) -> None:
    """Every rank ends, soon, and what was raised is told with its traceback."""
    begun = time.monotonic()
    process = program("raises", where)
    output = process.stdout + process.stderr
    assert process.returncode != 0
    assert "ValueError: a bad sample" in output and "in prepare" in output, output
    assert time.monotonic() - begun < 90

"""Programs with a real Horovod in their processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness.programs import run

PROGRAMS = Path(__file__).parent / "programs"


def launch(program: str, *words: str, n: int = 2, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start a program as a user does."""
    settings = {"HPCDL_TIMEOUT": "60", "OMP_NUM_THREADS": "1", **environ}
    return run(sys.executable, "-m", "hpcdl.cli", "run", "-n", str(n), PROGRAMS / f"{program}.py", *words, **settings)


@pytest.fixture
def program(require):
    """`launch`, where MPI and Horovod are there."""
    require("mpi")
    require("horovod")
    return launch

"""Starts each program once, on four ranks; its cases are the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.cases import Programs

PROGRAMS = Path(__file__).parent / "programs"
_programs = Programs(PROGRAMS, ranks=4)
cases, launch, ended = _programs.cases, _programs.launch, _programs.ended


@pytest.fixture
def passed(require):
    """``passed(program, case)``: the case ran on every rank and none found fault."""
    require("mpi")
    return _programs.check


@pytest.fixture
def program(require):
    """`launch`, where MPI is there."""
    require("mpi")
    return launch

"""Starts each program once, on four ranks; its cases are the tests."""

from __future__ import annotations

import json
from functools import cache
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


@cache
def _trained(*options: str) -> dict[tuple[str, int], list[float]]:
    process = launch("idioms", options=options)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    told = (json.loads(line[1:]) for line in process.stdout.splitlines() if line.startswith("@["))
    return {(name, rank): values for name, rank, values in told}


@pytest.fixture
def idioms(require):
    """``idioms(option, …)``: what each rank has trained by each idiom of idioms.py, run once."""
    require("mpi")
    return _trained

"""Starts each program once; its cases are the tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.programs import run

PROGRAMS = Path(__file__).parent / "programs"
RANKS = 4


class Ended(NamedTuple):
    """How a program ended: what each rank told of each case, and all that was printed besides."""

    told: dict[str, dict[int, str]]
    code: int
    output: str


def cases(program: str) -> list[str]:
    """The cases of a program, as its text defines them."""
    return re.findall(r"^def case_(\w+)", (PROGRAMS / f"{program}.py").read_text(encoding="utf-8"), re.MULTILINE)


def launch(program: str, *words: str, n: int = RANKS, options: tuple[str, ...] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    """Start a program as a user does."""
    settings = {"HPCDL_TIMEOUT": "60", "OMP_NUM_THREADS": "1", **environ}
    return run(sys.executable, "-m", "hpcdl.cli", "run", "-np", str(n), *options, PROGRAMS / f"{program}.py", *words, **settings)


@cache
def ended(program: str) -> Ended:
    """Run all of a program's cases, once."""
    try:
        process = launch(program)
        code, output = process.returncode, process.stdout + process.stderr
    except subprocess.TimeoutExpired as error:
        code, output = -1, "".join(part if isinstance(part, str) else (part or b"").decode() for part in (error.stdout, error.stderr))
    told: dict[str, dict[int, str]] = {}
    rest = []
    for line in output.splitlines():
        if line.startswith("@{"):
            said = json.loads(line[1:])
            told.setdefault(said["case"], {})[said["rank"]] = said["error"]
        elif line.strip():
            rest.append(line)
    return Ended(told, code, "\n".join(rest))


@pytest.fixture
def passed(require):
    """``passed(program, case)``: the case ran on every rank and none found fault."""
    require("mpi")

    def check(program: str, case: str) -> None:
        found = ended(program)
        told = found.told.get(case, {})
        for rank, error in sorted(told.items()):
            assert not error, f"rank {rank}: {error}"
        assert sorted(told) == list(range(RANKS)), f"ranks {sorted(told)} came to the end; exit {found.code}\n{found.output[-4000:]}"

    return check


@pytest.fixture
def program(require):
    """`launch`, where MPI is there."""
    require("mpi")
    return launch

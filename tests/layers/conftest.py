"""Starts each program once per backend of Keras, on three ranks; its cases are the tests."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.programs import run

PROGRAMS = Path(__file__).parent / "programs"
BACKENDS = ("tensorflow", "jax", "torch")
RANKS = 3


class Ended(NamedTuple):
    """How a program ended: what each rank told of each case, and all that was printed besides."""

    told: dict[str, dict[int, str]]
    code: int
    output: str


def cases(program: str) -> list[str]:
    """The cases of a program, as its text defines them."""
    return re.findall(r"^def case_(\w+)", (PROGRAMS / f"{program}.py").read_text(encoding="utf-8"), re.MULTILINE)


def launch(program: str, backend: str, *words: str, n: int = RANKS, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start a program as a user does."""
    settings = {
        "HPCDL_TIMEOUT": "60",
        "OMP_NUM_THREADS": "1",
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(Path(tempfile.gettempdir(), "hpcdl-keras-home")),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **environ,
    }
    return run(sys.executable, "-m", "hpcdl.cli", "run", "-n", str(n), PROGRAMS / f"{program}.py", *words, **settings)


@cache
def ended(program: str, backend: str) -> Ended:
    """Run all of a program's cases, once for each backend."""
    try:
        process = launch(program, backend)
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


def there(backend: str, require) -> None:
    """Skip, or fail where HPCDL_REQUIRE names it, without MPI, Keras and this backend. Imports none of them: that takes seconds."""
    for part in ("mpi", *([] if importlib.util.find_spec("keras") and importlib.util.find_spec(backend) else ["keras", backend])):
        require(part)


@pytest.fixture
def passed(require):
    """``passed(program, backend, case)``: the case ran on every rank and none found fault."""

    def check(program: str, backend: str, case: str) -> None:
        there(backend, require)
        found = ended(program, backend)
        told = found.told.get(case, {})
        for rank, error in sorted(told.items()):
            assert not error, f"rank {rank}: {error}"
        assert sorted(told) == list(range(RANKS)), f"ranks {sorted(told)} came to the end; exit {found.code}\n{found.output[-4000:]}"

    return check


@pytest.fixture
def program(require):
    """`launch`, where MPI, Keras and the backend are there."""

    def start(name: str, backend: str, *words: str, **more) -> subprocess.CompletedProcess[str]:
        there(backend, require)
        return launch(name, backend, *words, **more)

    return start

"""Starts the programs once per backend of Keras, on two or three ranks; their cases are the tests."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path

import pytest
from harness.cases import Ended, Programs

BACKENDS = ("tensorflow", "jax", "torch")
_home = str(Path(tempfile.gettempdir(), "hpcdl-keras-home"))
# Nearly all of their time backends compile: without XLA's optimizations, then, which take longer than they save here.
_environ = {"KERAS_HOME": _home, "TF_CPP_MIN_LOG_LEVEL": "3", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
_two, _three = (Programs(Path(__file__).parent / "programs", ranks, **_environ) for ranks in (2, 3))
cases = _three.cases


def programs(program: str, backend: str) -> Programs:
    """Where each rank has all to compile, two of them run the longest program; three do where none has."""
    return _two if program == "every" and backend != "torch" else _three


def ended(program: str, backend: str) -> Ended:
    """All of a program's cases, run once for each backend."""
    return programs(program, backend).ended(program, KERAS_BACKEND=backend)


def there(backend: str, require) -> None:
    """Skip, or fail where HPCDL_REQUIRE names it, without MPI, Keras and this backend. Imports none of them: that takes seconds."""
    for part in ("mpi", *([] if importlib.util.find_spec("keras") and importlib.util.find_spec(backend) else ["keras", backend])):
        require(part)


@pytest.fixture
def passed(require):
    """``passed(program, backend, case)``: the case ran on every rank and none found fault."""

    def check(program: str, backend: str, case: str) -> None:
        there(backend, require)
        programs(program, backend).check(program, case, KERAS_BACKEND=backend)

    return check


@pytest.fixture
def program(require):
    """``program(name, backend, …)``: started, where MPI, Keras and the backend are there."""

    def start(name: str, backend: str, *words: str, **more) -> subprocess.CompletedProcess[str]:
        there(backend, require)
        return programs(name, backend).launch(name, *words, KERAS_BACKEND=backend, **more)

    return start

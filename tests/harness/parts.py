"""What is installed here. A part that is missing skips its tests, or fails them if HPCDL_REQUIRE names it."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from hpcdl.errors import LaunchError

from .lab import why_no_lab

SLURM = ("sbatch", "slurmctld", "slurmd", "munged")
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # where daemons are


def required() -> set[str]:
    """The parts that this run must not do without: HPCDL_REQUIRE=mpi,sklearn,…"""
    return {name.strip() for name in os.environ.get("HPCDL_REQUIRE", "").split(",") if name.strip()}


def require(part: str, missing: str | None = None) -> Any:
    """Return the part (the module, where it is one); skip the test if it is missing, fail it if HPCDL_REQUIRE names it.

    `part` is "mpi", "slurm", "gpu" or a module's name. `missing` overrides the look-up: the reason why the part is missing, "" for present.
    """
    __tracebackhide__ = True
    module = None
    if missing is None:
        module, missing = _PARTS[part]() if part in _PARTS else _module(part)
    if not missing:
        return module
    if part in required():
        pytest.fail(f"HPCDL_REQUIRE names {part}, but {missing}", pytrace=False)
    pytest.skip(f"no {part}: {missing}")


def framework(name: str) -> Any:
    """At the top of a test file that is all about this module: the module; skips the file without it, or fails it."""
    module, missing = _module(name)
    if missing and name in required():
        raise ImportError(f"HPCDL_REQUIRE names {name}, but {missing}")
    if missing:
        pytest.skip(f"no {name}: {missing}", allow_module_level=True)
    return module


def _module(name: str) -> tuple[Any, str]:
    try:
        return importlib.import_module(name), ""
    except ImportError as error:
        return None, str(error)


@functools.cache
def why_no_mpi() -> str:
    """Why no MPI job can be started here; "" if one can. Asks child processes, so that this one stays without MPI."""
    from .job import command

    try:
        command([])
    except LaunchError as error:
        return str(error)
    return ""


def _slurm() -> tuple[None, str]:
    """What tests/slurm starts a cluster with."""
    missing = [tool for tool in SLURM if shutil.which(tool, path=SEARCHED) is None]
    if missing:
        install = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge libpmix-dev"
        return None, f"not found: {', '.join(missing)} ({install})"
    return None, f"its nodes have no hosts: {why_no_lab()}" if why_no_lab() else ""


def _gpu() -> tuple[Any, str]:
    cupy, missing = _module("cupy")
    if missing:
        return None, missing
    return cupy, "" if cupy.is_available() else "CuPy sees no GPU"


_PARTS: dict[str, Callable[[], tuple[Any, str]]] = {"mpi": lambda: (None, why_no_mpi()), "slurm": _slurm, "gpu": _gpu}

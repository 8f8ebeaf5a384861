"""The table of MPI libraries and their launchers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcdl.errors import LaunchError
from hpcdl.launch import mpiexec

from .conftest import HANG, environment

pytestmark = pytest.mark.outer

LIBRARIES = {
    "Open MPI v5.0.11, package: Open MPI user@localhost Distribution, ident: 5.0.11": "Open MPI 5.0.11",
    "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, repo rev: v4.1.4, May 26, 2022": "Open MPI 4.1.4",
    "MPICH Version:      5.0.2\nMPICH Release date: …": "MPICH 5.0.2",
    "Intel(R) MPI Library 2021.13 for Linux* OS\n": "Intel MPI 2021.13",
    "MPI VERSION    : CRAY MPICH version 8.1.28.15 (ANL base 3.4a2)\n": "Cray MPICH 8.1.28.15",
    "MVAPICH2 Version      :\t2.3.7\nMVAPICH2 Release date : …": "MVAPICH 2.3.7",
}


@pytest.mark.parametrize("text", LIBRARIES)
def test_recognise(text: str) -> None:
    assert str(mpiexec.recognise(text)) == LIBRARIES[text]


def test_unknown_library() -> None:
    with pytest.raises(LaunchError, match=r"unknown MPI library 'Acme MPI 1'; known: .*MPICH.*Open MPI"):
        mpiexec.recognise("Acme MPI 1")


def _fake(folder: Path, name: str, version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\n' '{version}'\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_launcher_beside_the_library_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path / "own/bin", "mpirun", "mpirun (Open MPI) 5.0.3")
    _fake(tmp_path / "path", "mpirun", "mpirun (Open MPI) 5.0.9")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    library = mpiexec.recognise("Open MPI v5.0.3, …", str(tmp_path / "own/lib/libmpi.so.40"))
    assert mpiexec.launcher(library).path == str(tmp_path / "own/bin/mpirun")


def test_launcher_of_another_mpi_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path / "own/bin", "mpirun", "HYDRA build details:\n    Version: 4.2")
    _fake(tmp_path / "old", "mpirun", "mpirun (Open MPI) 4.1.4")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}:/usr/bin:/bin")
    library = mpiexec.recognise("Open MPI v9.0.1, …", str(tmp_path / "own/lib/libmpi.so.40"))
    with pytest.raises(LaunchError) as error:
        mpiexec.launcher(library)
    text = str(error.value)
    assert (
        "no launcher that belongs to Open MPI 9.0.1" in text
        and "own/bin/mpirun: HYDRA" in text
        and "mpirun (Open MPI) 4.1.4" in text
        and "Cure:" in text
    )


def test_this_machines_library_and_launcher(require: Callable[..., object]) -> None:
    require("mpi")
    library = mpiexec.library()
    assert library.path is None or os.path.exists(library.path)
    launcher = mpiexec.launcher(library)
    assert launcher.family == library.family and os.access(launcher.path, os.X_OK)


def test_inside_an_allocation_the_ranks_stay_on_this_machine() -> None:
    launcher = mpiexec.Launcher("mpirun", "5.0.11", mpiexec.recognise("Open MPI v5.0.11").family)
    assert launcher.command(4, {})[-2:] == ["-n", "4"] and "--host" not in launcher.command(4, {})
    assert "localhost:4" in launcher.command(4, {"SLURM_JOB_ID": "7"})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "raise ImportError('libmpi.so.40: cannot open shared object file')",
            "finds no MPI library it can load: .*libmpi.so.40.*\n.*hpcdl\\[mpi\\]",
        ),
        ("raise ModuleNotFoundError(\"No module named 'mpi4py'\")", "mpi4py is not installed for"),
    ],
)
def test_no_library(module: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py/__init__.py").write_text(module, encoding="utf-8")
    (tmp_path / "script.py").touch()
    command = [sys.executable, "-m", "hpcdl.cli", "run", "-n", "2", "script.py"]
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANG, check=False)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(ended.stderr)

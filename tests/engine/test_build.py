"""What `python -m hpcdl.horovod.build` finds out before it builds; the build itself if HPCDL_BUILD_HOROVOD names a folder for wheels."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from harness.programs import python

from hpcdl.horovod import build

pytestmark = [pytest.mark.outer]

TARGET = build.Target(sys.executable, "3.11.7", "cpython-311", "linux-x86_64", "/v/bin", "2.13.0", "Open MPI v5.0.11", ())
MPICH = TARGET._replace(mpi="MPICH Version: 5.0.2")


def program(folder, name: str, *lines: str) -> None:
    (folder / name).write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
    (folder / name).chmod(0o755)


def test_what_is_missing_is_told_with_its_cure(tmp_path) -> None:
    found = build.missing(TARGET._replace(lacks=("torch",), mpi=""), str(tmp_path))
    assert [line.split()[0] for line in found] == ["torch", "mpi4py", "g++", "cmake", "make", "mpicc"]
    assert all("; cure: " in line for line in found)


def test_an_mpicc_of_another_library(tmp_path) -> None:
    for name in ("g++", "cmake", "make"):
        program(tmp_path, name)
    program(tmp_path, "mpicc", "/bin/cat >/dev/null", "echo '#define OPEN_MPI 1'")
    assert build.missing(TARGET, str(tmp_path)) == []
    (told,) = build.missing(MPICH, str(tmp_path))
    assert f"{tmp_path}/mpicc belongs to Open MPI, but mpi4py loads MPICH Version: 5.0.2" in told


def test_the_compiler_is_told_another_standard(tmp_path) -> None:
    program(tmp_path, "real one", 'printf "%s\\n" "$@"')
    made = build.wrapper(tmp_path, str(tmp_path / "real one"))
    told = subprocess.run([made, "-O2", "-std=c++14", "-DX=a b", "x.cc"], check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == ["-O2", "-std=c++17", "-DX=a b", "x.cc", "-g0"]


def test_the_build_keeps_what_the_user_has_set(tmp_path) -> None:
    told = build.environment(TARGET, tmp_path / "c++17", {"PATH": "/bin", "HOROVOD_GPU_OPERATIONS": "NCCL", "MAKEFLAGS": "-j1"})
    assert told["PATH"] == f"/v/bin{os.pathsep}/bin"
    assert (told["MAKEFLAGS"], told["HOROVOD_GPU_OPERATIONS"], told["HOROVOD_WITHOUT_GLOO"]) == ("-j1", "NCCL", "1")
    assert told["CMAKE_POLICY_VERSION_MINIMUM"] == "3.5"


def test_a_kept_wheel_must_fit(tmp_path) -> None:
    assert build._kept(tmp_path, TARGET) is None
    place = build._place(tmp_path, TARGET)
    place.mkdir()
    (wheel := place / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl").touch()
    assert build._kept(tmp_path, TARGET) is None, "the wheel is not whole"
    (place / "fits.json").write_text(json.dumps(TARGET.fits))
    assert build._kept(tmp_path, TARGET) == wheel
    for other in (MPICH, TARGET._replace(torch="2.15.0"), TARGET._replace(tag="cpython-312")):
        assert build._kept(tmp_path, other) is None


def test_check(require) -> None:
    """As a user types it: it says what it builds for, and either that nothing is missing or what is."""
    require("mpi")
    ended = python("-m", "hpcdl.horovod.build", "--check")
    assert ended.stdout.startswith("Horovod 0.28.1 for Python ")
    assert "nothing is missing" in ended.stdout if ended.returncode == 0 else ended.stderr.startswith("the build lacks:\n  ")
    wrong = python("-m", "hpcdl.horovod.build", "--check", "--python", "/there/is/none")
    assert wrong.returncode != 0
    assert wrong.stderr.startswith("/there/is/none does not run")


def test_build() -> None:
    """Minutes, unless the folder has a wheel that fits; it installs into this environment."""
    folder = os.environ.get("HPCDL_BUILD_HOROVOD")
    if not folder:
        pytest.skip("HPCDL_BUILD_HOROVOD names no folder for wheels")
    for _ in range(2):  # what the first has built, the second finds
        words = [sys.executable, "-m", "hpcdl.horovod.build", "--wheel-dir", folder]
        ended = subprocess.run(words, check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "verified: an all-reduce by 2 ranks" in ended.stdout
        if "fits: no build" in ended.stdout:
            return
    pytest.fail(f"the wheel was not kept:\n{ended.stdout}")

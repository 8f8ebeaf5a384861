"""One table: MPI library -> the launcher that belongs to it, how to recognise it, the flags and variables it needs here.

`library()` asks a child process which MPI library mpi4py loads in this interpreter; `launcher()` finds the launcher of that very
library and checks it by its ``--version``. Why so careful: a launcher of one MPI with the library of another starts N worlds of
one rank, with exit code 0.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import LaunchError
from .env import outside

__all__ = ["FAMILIES", "Family", "Launcher", "Library", "launcher", "library"]


@dataclass(frozen=True)
class Family:
    """MPI libraries that share a launcher, its names and its flags."""

    name: str
    library: str  # regular expression over MPI_Get_library_version(); its group is the version
    names: tuple[str, ...]  # launchers, the likeliest first
    launcher: str  # regular expression over `launcher --version`; its group is the version
    flags: tuple[str, ...] = ()  # always: no binding to one core, more ranks than cores, root
    allocated: tuple[str, ...] = ()  # inside a batch allocation: stay on this machine; {n} is the number of ranks
    env: tuple[tuple[str, str], ...] = ()  # set for the launcher unless the user did
    block: str = ""  # what the launcher says about a failed job: regular expression over the first line between two rules of dashes
    line: str = ""  # the same, over single lines
    passing: str = ""  # what it says in `block` when it could not start anything, now and then, and can the next time
    same_major: bool = True  # whether a launcher of another major version starts worlds of one


_OMPI_ROOT = (("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"))
_ANY = (("UCX_DEBUG_SIGNO", "0"),)  # UCX catches SIGHUP, to talk more: it is to end the rank
_OMPI_PASSING = "The PMIx server's listener thread failed to start"
_OMPI_PROGRAM = r"\S*(prterun|prted?|mpirun|mpiexec|orterun)\S*"
_OMPI_BLOCK = rf"({_OMPI_PROGRAM} (detected|noticed|has (exited|lost))|Primary job|MPI_ABORT was invoked|{_OMPI_PASSING})"
_OMPI_LINE = r"Abort is in progress\.\.\.hit ctrl-c"
_HYDRA_LINE = (
    r"={83}$|=   (BAD TERM|RANK|PID|EXIT|KILLED|CLEANING|YOU CAN)|YOUR APPLICATION TERMINATED WITH"
    r"|This typically refers to a problem with your|Please see the FAQ page for debugging"
    r"|\[mpiexec@\S+\] (Sending|Press) Ctrl-C|Ctrl-C caught\.\.\."
)
_HYDRA_NAMES = ("mpiexec.hydra", "mpiexec", "mpirun", "mpiexec.mpich", "mpirun.mpich")
_HYDRA_VERSION = r"HYDRA build details:\s+Version:\s+(\d+[.\d]*)"
_OMPI_NAMES = ("mpirun", "mpiexec", "mpirun.openmpi", "mpiexec.openmpi")

# Recognised from top to bottom: the vendors' MPICHs call themselves MPICH too.
FAMILIES: tuple[Family, ...] = (
    Family(
        "Intel MPI",
        library=r"Intel\(R\) MPI Library (\d+[.\d]*)",
        names=("mpiexec.hydra", "mpiexec", "mpirun"),
        launcher=r"Intel\(R\) MPI Library.*Version (\d+[.\d]*)",
        allocated=("-hosts", "localhost", "-bootstrap", "fork"),
        line=_HYDRA_LINE,
        same_major=False,
    ),
    Family(
        "Cray MPICH",
        library=r"CRAY MPICH version (\d+[.\d]*)",
        names=("srun", "mpiexec", "aprun"),
        launcher=r"(?:slurm|PALS|aprun)\D*(\d+[.\d]*)",
        line=r"(srun|slurmstepd): error",
        same_major=False,
    ),
    Family("MVAPICH", r"MVAPICH\d?\s+Version\s*:\s*(\d+[.\d]*)", _HYDRA_NAMES, _HYDRA_VERSION, line=_HYDRA_LINE, same_major=False),
    Family(
        "MPICH",
        library=r"MPICH Version:\s*(\d+[.\d]*)",
        names=_HYDRA_NAMES,
        launcher=_HYDRA_VERSION,
        allocated=("-hosts", "localhost", "-launcher", "fork"),
        line=_HYDRA_LINE,
        same_major=False,
    ),
    Family(
        "Open MPI 4",
        library=r"Open MPI v([1-4]\.[.\d]*)",
        names=(*_OMPI_NAMES, "orterun"),
        launcher=r"\((?:Open MPI|OpenRTE)\) ([1-4]\.[.\d]*)",
        flags=("--oversubscribe", "--bind-to", "none"),
        allocated=("--host", "localhost:{n}"),
        env=_OMPI_ROOT,
        block=_OMPI_BLOCK,
        line=_OMPI_LINE,
    ),
    Family(
        "Open MPI",
        library=r"Open MPI v(\d+[.\d]*)",
        names=_OMPI_NAMES,
        launcher=r"\(Open MPI\) (\d+[.\d]*)",
        flags=("--map-by", ":oversubscribe", "--bind-to", "none"),
        allocated=("--host", "localhost:{n}"),
        env=_OMPI_ROOT,
        block=_OMPI_BLOCK,
        line=_OMPI_LINE,
        passing=_OMPI_PASSING,
    ),
)

_ALLOCATIONS = ("SLURM_JOB_ID", "SLURM_JOBID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "COBALT_JOBID")


@dataclass(frozen=True)
class Library:
    """The MPI library that mpi4py loads in this interpreter."""

    family: Family
    version: str
    text: str  # the first line of MPI_Get_library_version()
    path: str | None  # of the loaded libmpi, where the system tells

    def __str__(self) -> str:
        return f"{self.family.name} {self.version}" if self.family.name != "Open MPI 4" else f"Open MPI {self.version}"


@dataclass(frozen=True)
class Launcher:
    """A launcher that belongs to the library."""

    path: str
    version: str
    family: Family

    def command(self, ranks: int, environ: Mapping[str, str] = os.environ) -> list[str]:
        """The command line that starts `ranks` ranks on this machine, up to the program."""
        here = self.family.allocated if any(name in environ for name in _ALLOCATIONS) else ()
        return [self.path, *self.family.flags, *(flag.format(n=ranks) for flag in here), "-n", str(ranks)]

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """`environ` for a new world: without an outer launcher's variables, with those this launcher needs."""
        return {**dict((*_ANY, *self.family.env)), **outside(environ)}


_PROBE = """
import json, os, sys
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
path = None
try:
    with open("/proc/self/maps") as maps:
        loaded = {line.split(None, 5)[5].strip() for line in maps if line.count("/")}
    names = ("libmpi.", "libmpich", "libmpi_abi", "libmpi_cray")
    path = min((p for p in loaded if os.path.basename(p).startswith(names)), default=None, key=len)
except OSError:
    pass
print(json.dumps({"text": MPI.Get_library_version(), "path": path}))
"""

_NO_MPI = (
    "Cure: load the site's MPI module (`module avail mpi`) or install one with the system's package manager;"
    " where there is none, `pip install 'hpcdl[mpi]'` brings one as a wheel."
)


@functools.lru_cache(maxsize=1)
def library(python: tuple[str, ...] = (sys.executable,)) -> Library:
    """Which MPI library mpi4py loads in the interpreter `python`, a command, found out in a child process that does not start MPI.

    Raises LaunchError.
    """
    try:
        child = subprocess.run([*python, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False, env=outside())
    except OSError as error:
        raise LaunchError(f"{' '.join(python)} cannot be started: {error}") from None
    except subprocess.TimeoutExpired:
        raise LaunchError("loading the MPI library takes more than 120 s: is its file system reachable?") from None
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or [f"the probe ended with code {child.returncode}"])[-1]
        if "No module named 'mpi4py'" in last:
            raise LaunchError(f"mpi4py is not installed for {' '.join(python)}. Cure: `pip install mpi4py`.")
        raise LaunchError(f"mpi4py finds no MPI library it can load: {last}\n{_NO_MPI}")
    found = json.loads(child.stdout.strip().splitlines()[-1])
    return recognise(found["text"], found["path"])


def recognise(text: str, path: str | None = None) -> Library:
    """The library that calls itself `text`. Raises LaunchError for one that is not in the table.

    >>> str(recognise("Open MPI v5.0.11, package: …"))
    'Open MPI 5.0.11'
    """
    first = text.strip("\0\n ").splitlines()[0].strip() if text.strip("\0\n ") else ""
    for family in FAMILIES:
        if match := re.search(family.library, text, re.IGNORECASE):
            return Library(family, match[1].rstrip("."), first, path)
    names = ", ".join(family.name for family in FAMILIES)
    raise LaunchError(f"unknown MPI library {first!r}; known: {names}. Cure: start the script with that library's own launcher.")


def candidates(found: Library) -> Iterator[str]:
    """Paths of launchers that may belong to `found`: its own prefix, beside this interpreter, then PATH."""
    folders: list[Path] = []
    if found.path:
        folders += [parent / "bin" for parent in list(Path(found.path).parents)[:5]]
        folders += [parent / "bin" for parent in list(Path(os.path.realpath(found.path)).parents)[:5]]
    folders.append(Path(sys.executable).parent)
    folders += [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    seen = set()
    for folder in folders:
        for name in found.family.names:
            path = shutil.which(name, path=str(folder))
            if path and path not in seen:
                seen.add(path)
                yield path


@functools.lru_cache(maxsize=4)
def launcher(found: Library) -> Launcher:
    """The launcher that belongs to `found`, checked by its version. Raises LaunchError that lists what was tried."""
    tried = []
    for path in candidates(found):
        text = version_text(path)
        match = re.search(found.family.launcher, text, re.IGNORECASE)
        version = match[1].rstrip(".") if match else ""
        if match and (not found.family.same_major or version.split(".")[0] == found.version.split(".")[0]):
            return Launcher(path, version, found.family)
        tried.append(f"  {path}: {text.strip().splitlines()[0].strip() if text.strip() else 'does not tell its version'}")
    raise LaunchError(
        f"no launcher that belongs to {found} ({found.path or 'path unknown'}); tried:\n"
        + ("\n".join(tried) or f"  (none of {', '.join(found.family.names)} beside the library, beside {sys.executable}, or in PATH)")
        + "\nCure: put the `bin` folder of that MPI into PATH, or load its module."
    )


def version_text(path: str) -> str:
    """What ``path --version`` prints, or an empty text."""
    environ = {**dict(_OMPI_ROOT), **outside()}
    try:
        child = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False, env=environ)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return child.stdout + child.stderr

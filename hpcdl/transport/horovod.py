"""An installed Horovod as another library's all-reduce, through its interface for PyTorch: the only import of the real `horovod`.

Why not its C interface: that initialises and asks for ranks, and cannot take a tensor; each framework's module adds tensors in C++.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..arrays import Array
from ..errors import LaunchError
from .base import Pending, TransportFailure
from .turns import Turns

__all__ = ["CURE", "HorovodSums", "await_others", "begin", "other_library", "why_not"]

CURE = "python -m hpcdl.horovod.build, which builds it for today's PyTorch; or pip install 'hpcdl[horovod]' where that builds by itself"
_DTYPES = ("float16", "float32", "float64", "int32", "int64")  # that it sums alike everywhere
_OPS = {"SUM": "Sum", "PROD": "Product"}
_LIBRARY = re.compile(rb"libmpi\.so\.\d+")


class HorovodSums:
    """Horovod's all-reduce over all ranks of a group, matched by name. Each group has names of its own, which begin with `label`."""

    def __init__(self, hvd: Any, label: str, ours: bool) -> None:
        self._hvd, self._label, self._ours = hvd, label, ours
        self._turns: dict[str, Turns] = {}

    def takes(self, op: str | None, dtype: Any) -> bool:
        """Whether it can reduce arrays of this dtype with the operation that MPI calls `op`."""
        return op in _OPS and str(dtype) in _DTYPES

    def turns(self, name: str) -> Turns:
        """The queue of those who reduce by this name: Horovod takes one tensor of a name at a time."""
        return self._turns.setdefault(name, Turns())

    def iallreduce(self, x: Array, op: str, name: str) -> Pending:
        """Reduce `x` in place; which other ranks' array it meets, `name` tells."""
        tensor = import_module("torch").from_numpy(x)
        try:
            handle = self._hvd.allreduce_async_(tensor, op=getattr(self._hvd, _OPS[op]), name=f"{self._label}, {name}")
        except RuntimeError as error:
            raise TransportFailure(f"Horovod: {error}") from error
        return _Handle(self._hvd, handle)

    def within(self, label: str) -> HorovodSums:
        """The same for another group of the same ranks."""
        return HorovodSums(self._hvd, f"{self._label}, {label}", ours=False)

    def close(self) -> None:
        """End Horovod, if it was started here; once all ranks are done, and before MPI ends."""
        if self._ours and self._hvd.is_initialized():
            self._hvd.shutdown()


class _Handle:
    """A reduction that Horovod's own thread is at."""

    source = -1
    nbytes = 0

    def __init__(self, hvd: Any, handle: int) -> None:
        self._hvd, self._handle = hvd, handle
        self._finished = False

    def done(self) -> bool:
        if not self._finished and self._hvd.poll(self._handle):
            self._finished = True
            try:
                self._hvd.synchronize(self._handle)
            except RuntimeError as error:  # HorovodInternalError is one
                raise TransportFailure(f"Horovod: {error}") from error
        return self._finished

    def cancel(self) -> None:
        """Horovod has no way to; it keeps the array alive."""


def why_not() -> str:
    """Why Horovod cannot be used in this process; "" where it can, as far as one rank can tell. MPI has been started."""
    found = find_spec("horovod")
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        return f"Horovod is not installed; cure: {CURE}"
    libraries = [file for place in places for suffix in EXTENSION_SUFFIXES for file in Path(place).glob(f"torch/mpi_lib_v2{suffix}")]
    if not libraries:
        return f"the Horovod in {places[0]} has no part for PyTorch, which it is used through; cure: {CURE}"
    wrong = other_library(libraries[0].read_bytes(), _loaded())
    if wrong:
        return f"{wrong}; cure: build it again with this one's mpicc first on the path: python -m hpcdl.horovod.build"
    try:
        import_module("horovod.torch")
    except Exception as error:  # whatever a library built for another PyTorch raises
        return f"Horovod cannot be imported ({type(error).__name__}: {error}); cure: python -m hpcdl.horovod.build"
    hvd = import_module("horovod.torch")
    return "" if hvd.mpi_built() else "Horovod was built without MPI; cure: python -m hpcdl.horovod.build"


def other_library(extension: bytes, loaded: set[str]) -> str:
    """What is wrong where Horovod's library needs another MPI library than those `loaded` (file names); "" if nothing is, or none tells.

    Why not only compare the sizes of the worlds: MPICH in a process that Open MPI's mpirun has started may end it before it can tell.
    """
    needed = {name.decode() for name in _LIBRARY.findall(extension)}
    if not needed or not loaded or any(name == want or name.startswith(want + ".") for name in loaded for want in needed):
        return ""
    return f"Horovod was built with another MPI library ({', '.join(sorted(needed))}) than mpi4py loads ({', '.join(sorted(loaded))})"


def _loaded() -> set[str]:
    """File names of the MPI libraries in this process."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    names = {Path(line.split(maxsplit=5)[5]).name for line in lines if "libmpi.so" in line}
    return {name for name in names if name.startswith("libmpi.so.")}


def await_others(size: int) -> None:
    """Return once all ranks have come here, if a Horovod of theirs runs that the program has started; for the end of a process.

    Why: where Horovod has started MPI, it ends MPI on all ranks as soon as one of them ends Horovod, also under those who still use it.
    """
    hvd: Any = sys.modules.get("horovod.torch")
    try:
        if hvd is not None and hvd.__name__ == "horovod.torch" and hvd.is_initialized() and hvd.size() == size:
            hvd.barrier()
    except (RuntimeError, ValueError):  # it has ended meanwhile
        pass


def begin(comm: Any, rank: int, size: int) -> HorovodSums:
    """Start Horovod over `comm`, an mpi4py communicator (None: COMM_WORLD), unless the program has. Collective.

    MPI runs already, with THREAD_MULTIPLE, so Horovod takes a communicator of its own and leaves it to others to end MPI. Raises
    LaunchError where its world is not this one.
    """
    hvd = import_module("horovod.torch")
    ours = not hvd.is_initialized()
    if ours:
        hvd.init() if comm is None else hvd.init(comm=comm)
    if (hvd.rank(), hvd.size()) != (rank, size):
        theirs = f"Horovod is rank {hvd.rank()} of {hvd.size()}, hpcdl rank {rank} of {size}"
        cause = "it was built with another MPI library (python -m hpcdl.horovod.build), or hvd.init() was given other ranks"
        raise LaunchError(f"{theirs}: {cause}")
    return HorovodSums(hvd, "hpcdl", ours)

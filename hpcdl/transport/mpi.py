"""MPI through mpi4py: the transport of real jobs. The only import of mpi4py outside of `launch`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import mpi4py

if "mpi4py.MPI" not in sys.modules:  # else the user's program has started MPI already
    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
from mpi4py import MPI

from ..arrays import Array
from ..errors import InvalidArgument
from ..launch.env import check_launcher, place
from .base import NativeCalls, Pending, Transport, Window, renumber
from .mpi_messages import Collective, FromAnybody, Message, cancel_all, failure, memory
from .turns import Turns
from .windows import allocate, free_all, nodes_of

__all__ = ["MPITransport", "before_finalize", "free_all", "give_up_receives", "library_version", "numbers", "world"]


_TYPES = {f"{kind}int{bits}": getattr(MPI, f"{kind.upper()}INT{bits}_T") for kind in ("", "u") for bits in (8, 16, 32, 64)}
_TYPES |= {"float32": MPI.FLOAT, "float64": MPI.DOUBLE}  # named, since mpi4py knows none for memory that is not aligned
_INFINIBAND = "/sys/class/infiniband"  # there where the kernel has such a network card
#: Open MPI ends all ranks when a connection between nodes breaks: a second later the launcher has said which rank was killed.
_LET_THE_LAUNCHER_SPEAK = ("OMPI_MCA_mpi_abort_delay", "1")
_LAST_WORDS = 0.3  # seconds between the last output and MPI_Abort: MPICH's launcher throws away what it has not read by then


class _NativeCalls:
    """The library's own collectives on one communicator."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.turns = Turns()

    def iallreduce(self, x: Array, op: str) -> Pending:
        try:
            return Collective(self._comm.Iallreduce(MPI.IN_PLACE, [x, x.size, _TYPES[x.dtype.name]], getattr(MPI, op)), x)
        except MPI.Exception as error:
            raise failure(error) from error

    def iallgather(self, mine: Array, everyone: Array) -> Pending:
        try:
            return Collective(self._comm.Iallgather(mine, everyone), (mine, everyone))
        except MPI.Exception as error:
            raise failure(error) from error


class MPITransport:
    """Messages over one communicator of its own."""

    direct = True

    def __init__(self, comm: Any, nodes: tuple[int, ...]) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._comm = comm
        self.nodes = nodes
        self.native: NativeCalls | None = _NativeCalls(comm)
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        everyone = MPI.COMM_WORLD.Get_group()
        self.ranks: tuple[int, ...] = tuple(MPI.Group.Translate_ranks(comm.Get_group(), list(range(self.size)), everyone))
        self.tags = int(comm.Get_attr(MPI.TAG_UB) or 32767) + 1
        self.threaded: bool = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        try:
            return Message(self._comm.Isend(memory(buf), peer, tag), buf)
        except MPI.Exception as error:
            raise failure(error) from error

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        if peer is None:
            return FromAnybody(self._comm, buf, tag)
        try:
            return Message(self._comm.Irecv(memory(buf), peer, tag), buf, MPI.Status())
        except MPI.Exception as error:
            raise failure(error) from error

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        members = self._comm.Get_group().Incl(list(ranks))
        nodes = renumber(self.nodes[rank] for rank in ranks)
        return MPITransport(self._comm.Create_group(members, tag % self.tags), nodes)

    def window(self, nbytes: int) -> Window | None:
        return allocate(self._comm, self.nodes[self.rank], nbytes)

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_LAST_WORDS)
        MPI.COMM_WORLD.Abort(code)

    def close(self) -> None:
        # A library has some 2,000 communicators to give. Free is collective by the letter, and local in all libraries.
        if not MPI.Is_finalized():
            self._comm.Free()


def world(comm: Any | None = None) -> MPITransport:
    """The transport over a duplicate of `comm` (default: MPI.COMM_WORLD), or over these ranks of COMM_WORLD, in this order. Starts MPI if
    need be. Collective over those ranks.

    Raises LaunchError where the MPI library cannot belong to the launcher, InvalidArgument for ranks that cannot be.
    """
    if not MPI.Is_initialized():
        check_launcher(str(MPI.Get_library_version()))
        if not os.path.isdir(_INFINIBAND):  # else Open MPI 5 prints an error for each window of shared memory, to no purpose
            os.environ.setdefault("OMPI_MCA_osc", "^ucx")
        here = place()
        if here is not None and here.local_size is not None and here.local_size < here.size:
            os.environ.setdefault(*_LET_THE_LAUNCHER_SPEAK)
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    if isinstance(comm, Iterable):
        comm = _of_ranks(numbers(comm))
    else:
        comm = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm must be an mpi4py intra-communicator, got {type(comm).__name__}")
        comm = comm.Dup()
    return MPITransport(comm, nodes_of(comm))


def numbers(comm: Any) -> tuple[int, ...]:
    """The numbers in COMM_WORLD of the ranks of `comm`: a communicator, or those numbers themselves."""
    if isinstance(comm, Iterable):
        return tuple(int(rank) for rank in comm)
    return tuple(MPI.Group.Translate_ranks(comm.group, range(comm.size), MPI.COMM_WORLD.group))


def _of_ranks(ranks: tuple[int, ...]) -> Any:
    """A communicator of its own. Called by those ranks only."""
    rank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    if len(set(ranks)) != len(ranks) or not all(0 <= member < size for member in ranks):
        raise InvalidArgument(f"rank {rank} of {size}: ranks must be different and within 0 to {size - 1}, got {list(ranks)}")
    if rank not in ranks:
        raise InvalidArgument(f"rank {rank} of {size} is not among the ranks {list(ranks)}; only those may begin with them")
    return MPI.COMM_WORLD.Create_group(MPI.COMM_WORLD.group.Incl(ranks))


def give_up_receives() -> None:
    """Cancel what is still posted, such as the control lanes of groups that nobody closed: MPICH's network layer complains otherwise."""
    cancel_all()


def library_version() -> str:
    """First line of the MPI library's own description."""
    return str(MPI.Get_library_version()).splitlines()[0].rstrip("\x00").strip()


def before_finalize(action: Callable[[], None]) -> None:
    """Call `action` when MPI is about to end, also where the user's program ends it."""

    def delete(*_: object) -> None:
        action()

    MPI.COMM_SELF.Set_attr(MPI.Comm.Create_keyval(delete_fn=delete), None)

"""MPI through mpi4py: the transport of real jobs. The only import of mpi4py outside of `launch`."""

from __future__ import annotations

import sys
from typing import Any

from mpi4py import MPI

from ..arrays import Array
from .base import Pending, Placement, Transport, TransportFailure, Truncated

__all__ = ["MPITransport", "finalized", "library_version", "world"]


class _Message:
    """A request of MPI. Holds its buffer, which MPI reads or writes until it is done."""

    __slots__ = ("_buf", "_request", "_status", "nbytes", "source")

    def __init__(self, request: Any, buf: Array, status: Any | None) -> None:
        self._request = request
        self._buf = buf
        self._status = status
        self.source = -1
        self.nbytes = 0

    def done(self) -> bool:
        try:
            if not self._request.Test(self._status):
                return False
        except MPI.Exception as error:
            raise _failure(error) from error
        if self._status is not None:
            self.source = self._status.Get_source()
            self.nbytes = self._status.Get_count(MPI.BYTE)
            self._status = None
        return True

    def cancel(self) -> None:
        if self._request != MPI.REQUEST_NULL:
            try:
                self._request.Cancel()
            except MPI.Exception:
                pass  # nothing left to give up


class MPITransport:
    """Messages over one communicator of its own."""

    def __init__(self, comm: Any) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.native = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        everyone = MPI.COMM_WORLD.Get_group()
        self.ranks = tuple(MPI.Group.Translate_ranks(comm.Get_group(), list(range(self.size)), everyone))
        self.tags = int(comm.Get_attr(MPI.TAG_UB) or 32767) + 1
        self.threaded: bool = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        try:
            return _Message(self.native.Isend([buf, buf.nbytes, MPI.BYTE], peer, tag), buf, None)
        except MPI.Exception as error:
            raise _failure(error) from error

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        source = MPI.ANY_SOURCE if peer is None else peer
        try:
            return _Message(self.native.Irecv([buf, buf.nbytes, MPI.BYTE], source, tag), buf, MPI.Status())
        except MPI.Exception as error:
            raise _failure(error) from error

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        members = self.native.Get_group().Incl(list(ranks))
        return MPITransport(self.native.Create_group(members, tag % self.tags))

    def placement(self) -> Placement:
        node = self.native.Split_type(MPI.COMM_TYPE_SHARED, key=self.rank)
        place = (node.Get_rank(), node.Get_size())
        first = node.bcast(self.rank if node.Get_rank() == 0 else None)
        node.Free()
        leaders = sorted(set(self.native.allgather(first)))
        return Placement(*place, leaders.index(first), len(leaders))

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(code)

    def close(self) -> None:
        # Why no Free: it is collective, and a rank that leaves early must not wait for the others.
        pass


def world(comm: Any | None = None) -> MPITransport:
    """The transport over a duplicate of `comm` (default: MPI.COMM_WORLD). Collective."""
    comm = MPI.COMM_WORLD if comm is None else comm
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm must be an mpi4py intra-communicator, got {type(comm).__name__}")
    return MPITransport(comm.Dup())


def library_version() -> str:
    """First line of the MPI library's own description."""
    return str(MPI.Get_library_version()).splitlines()[0].rstrip("\x00").strip()


def finalized() -> bool:
    """Whether MPI has ended already."""
    return bool(MPI.Is_finalized())


def _failure(error: Any) -> TransportFailure:
    kind = Truncated if error.Get_error_class() == MPI.ERR_TRUNCATE else TransportFailure
    return kind(error.Get_error_string())

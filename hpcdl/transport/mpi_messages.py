"""What MPI has been asked to send and to receive, and the memory that it must find in its place until then."""

from __future__ import annotations

import ctypes
from typing import Any

from mpi4py import MPI

from ..arrays import Array
from .base import DeviceBytes, TransportFailure, Truncated

__all__ = ["Collective", "FromAnybody", "Message", "cancel_all", "failure", "memory"]

#: Messages that MPI has not finished. Why: it still reads or writes their buffers, even after everybody else has forgotten them; so they
#: also outlive the interpreter, which ends before mpi4py calls MPI_Finalize.
_unfinished: set[Message] = set()
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_unfinished))


class Message:
    """A request of MPI, and its buffers."""

    __slots__ = ("_buf", "_request", "_status", "nbytes", "source")

    def __init__(self, request: Any, buf: Any, status: Any | None = None) -> None:
        self._request = request
        self._buf = buf
        self._status = status
        self.source = -1
        self.nbytes = 0
        _unfinished.add(self)

    def done(self) -> bool:
        try:
            if not self._request.Test(self._status):
                return False
        except MPI.Exception as error:
            raise failure(error) from error
        if self._status is not None:
            self.source = self._status.Get_source()
            self.nbytes = self._status.Get_count(MPI.BYTE)
            self._status = None
        _unfinished.discard(self)
        return True

    def cancel(self) -> None:
        if self in _unfinished and self._status is not None:  # a receive; MPI 4 deprecates cancelling sends
            try:
                self._request.Cancel()
                self.done()
            except (MPI.Exception, TransportFailure):
                pass  # nothing left to give up


class FromAnybody:
    """A receive from any rank, posted once a message is there.

    Why: MPICH 5 over several hosts loses receives that are posted with MPI_ANY_SOURCE (the message is matched, and never completed).
    """

    def __init__(self, comm: Any, buf: Array, tag: int) -> None:
        self._comm, self._buf, self._tag = comm, buf, tag
        self._receive: Message | None = None
        self.source, self.nbytes = -1, 0

    def done(self) -> bool:
        if self._receive is None:
            try:
                message = self._comm.Improbe(MPI.ANY_SOURCE, self._tag)
                if message is None:
                    return False
                self._receive = Message(message.Irecv(memory(self._buf)), self._buf, MPI.Status())
            except MPI.Exception as error:
                raise failure(error) from error
        finished = self._receive.done()
        self.source, self.nbytes = self._receive.source, self._receive.nbytes
        return finished

    def cancel(self) -> None:
        if self._receive is not None:
            self._receive.cancel()


class Collective(Message):
    """A request of a collective call, which cannot be cancelled (MPI 4.1, sec. 6.12)."""

    __slots__ = ()

    def cancel(self) -> None:
        pass


def cancel_all() -> None:
    """Give up all receives that are still posted."""
    for message in tuple(_unfinished):
        message.cancel()


def memory(buf: Array) -> list[Any]:
    """A buffer, on the host or `DeviceBytes`, as mpi4py takes it.

    Why device memory by its address: of an array mpi4py asks for DLPack or for __cuda_array_interface__, in which libraries may make the
    host wait, or order streams that are ordered already; an address it passes on as it is.
    """
    found = MPI.buffer.fromaddress(buf.address, buf.nbytes) if type(buf) is DeviceBytes else buf
    return [found, buf.nbytes, MPI.BYTE]


def failure(error: Any) -> TransportFailure:
    """What an MPI.Exception is called here."""
    kind = Truncated if error.Get_error_class() == MPI.ERR_TRUNCATE else TransportFailure
    return kind(error.Get_error_string())

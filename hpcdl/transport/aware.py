"""Device memory over a transport that takes it as it is: a GPU-aware MPI gets addresses, once the device is done there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from ..arrays import HOST, Array, of
from ..arrays.queue import queue_of
from .base import DeviceBytes, NativeCalls, Pending, Transport, Window
from .line import Line

__all__ = ["Aware"]


class _Message:
    """A send or a receive that goes to the library once an event says that the device has come so far.

    For a send that is the end of what makes the bytes; for a receive, of what was queued earlier and may still read or write where they
    land. What is queued after `done` sees them.
    """

    def __init__(self, line: Line, buf: Array, hand_over: Callable[[DeviceBytes], Pending]) -> None:
        library = of(buf)
        self._line, self._buf, self._hand_over = line, buf, hand_over
        self._queue, self._ready = queue_of(library), library.event()
        self._wire: Pending | None = None
        self._given_up = False
        self.source, self.nbytes = -1, 0

    def begin(self) -> bool:
        if self._wire is None and not self._given_up and self._ready.done():
            memory = DeviceBytes(int(self._buf.data.ptr), self._buf.nbytes, self._buf)
            with self._queue or nullcontext():  # the library copies on the device that is current, in whichever thread this is
                self._wire = self._hand_over(memory)
        return self._wire is not None or self._given_up

    def done(self) -> bool:
        self._line.advance()
        if self._wire is None:
            return False
        with self._queue or nullcontext():
            finished = self._wire.done()
        if finished:
            self.source, self.nbytes = self._wire.source, self._wire.nbytes
        return finished

    def cancel(self) -> None:
        self._given_up = True
        if self._wire is not None:
            self._wire.cancel()


class _OfHost:
    """A message of host memory, in its place among those of device memory."""

    def __init__(self, line: Line, go: Callable[[], Pending]) -> None:
        self._line, self._go = line, go
        self._wire: Pending | None = None
        self._given_up = False
        self.source, self.nbytes = -1, 0

    def begin(self) -> bool:
        if self._wire is None and not self._given_up:
            self._wire = self._go()
        return True

    def done(self) -> bool:
        self._line.advance()
        finished = self._wire is not None and self._wire.done()
        if finished and self._wire is not None:
            self.source, self.nbytes = self._wire.source, self._wire.nbytes
        return finished

    def cancel(self) -> None:
        self._given_up = True
        if self._wire is not None:
            self._wire.cancel()


class Aware:
    """A transport that takes `DeviceBytes`, for arrays; host buffers pass through. No copy of ours, no waiting for the device.

    Sends, and receives, of one tag between two ranks go in the order in which they were asked for. Only messages: a library's collectives
    on device memory are not used, since what they do there differs from library to library, and is a segmentation fault in some.
    """

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.rank, self.size, self.ranks = inner.rank, inner.size, inner.ranks
        self.nodes = inner.nodes
        self.tags, self.threaded = inner.tags, inner.threaded
        self.native: NativeCalls | None = None
        self.direct = False
        self.line = Line()

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        return self._put(("to", peer, tag), buf, lambda memory: self.inner.isend(memory, peer, tag))

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        return self._put(("from", peer, tag), buf, lambda memory: self.inner.irecv(memory, peer, tag))

    def _put(self, key: tuple[str, int | None, int], buf: Array, hand_over: Callable[[Array], Pending]) -> Pending:
        host = of(buf) is HOST
        message = _OfHost(self.line, lambda: hand_over(buf)) if host else _Message(self.line, buf, hand_over)
        self.line.add(key, message)
        return message

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        return Aware(self.inner.group(ranks, tag))

    def window(self, nbytes: int) -> Window | None:
        return None  # of the host; device arrays have no place in it

    def abort(self, code: int) -> None:
        self.inner.abort(code)

    def close(self) -> None:
        self.inner.close()

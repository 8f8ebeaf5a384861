"""Device memory over a transport that takes host memory only: through pinned buffers, never waiting for the device."""

from __future__ import annotations

from contextlib import nullcontext

from ..arrays import HOST, Array, Event, of
from ..arrays.queue import queue_of
from .base import NativeCalls, Pending, Transport, Window

__all__ = ["Staged"]


class _Send:
    """Device -> pinned host, then the wire once an event says that the copy is final."""

    source = -1
    nbytes = 0

    def __init__(self, inner: Transport, buf: Array, peer: int, tag: int) -> None:
        library, buf = of(buf), buf.view("u1")
        self._inner, self._peer, self._tag, self._device = inner, peer, tag, buf
        self._host = library.pinned(buf.nbytes)
        library.to_host(buf, self._host)
        self._copied: Event = library.event()
        self._wire: Pending | None = None

    def start(self) -> bool:
        """Hand the copy to the wire if it is final."""
        if self._wire is None and self._copied.done():
            self._wire = self._inner.isend(self._host, self._peer, self._tag)
        return self._wire is not None

    def done(self) -> bool:
        return self.start() and self._wire is not None and self._wire.done()

    def cancel(self) -> None:
        if self._wire is not None:
            self._wire.cancel()


class _Receive:
    """The wire -> pinned host, then queued to the device in the order of the stream that was current when it was posted."""

    def __init__(self, staged: Staged, buf: Array, peer: int | None, tag: int) -> None:
        self._staged, self._queue = staged, queue_of(of(buf))
        self._buf, self._host = buf.view("u1"), of(buf).pinned(buf.nbytes)
        self._wire = staged.inner.irecv(self._host, peer, tag)
        self._finished = False
        self.source, self.nbytes = -1, 0

    def done(self) -> bool:
        self._staged.advance()
        if not self._finished and self._wire.done():
            self.source, self.nbytes = self._wire.source, self._wire.nbytes
            with self._queue or nullcontext():
                of(self._buf).from_host(self._host[: self.nbytes], self._buf[: self.nbytes])
            self._finished = True
        return self._finished

    def cancel(self) -> None:
        self._wire.cancel()


class Staged:
    """Any transport, with device buffers staged through the host; host buffers pass straight through.

    Messages keep their order per peer and tag: a later one is not handed to the wire before the earlier ones.
    """

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.rank, self.size, self.ranks = inner.rank, inner.size, inner.ranks
        self.nodes = inner.nodes
        self.tags, self.threaded = inner.tags, inner.threaded
        self.native: NativeCalls | None = None
        self._waiting: list[_Send] = []

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        if of(buf) is HOST and not self._waiting:
            return self.inner.isend(buf, peer, tag)
        self._waiting.append(_Send(self.inner, buf, peer, tag))
        return _Ordered(self, self._waiting[-1])

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        return _HostReceive(self, self.inner.irecv(buf, peer, tag)) if of(buf) is HOST else _Receive(self, buf, peer, tag)

    def advance(self) -> None:
        """Hand to the wire, in order, what has become final."""
        while self._waiting and self._waiting[0].start():
            self._waiting.pop(0)

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        return Staged(self.inner.group(ranks, tag))

    def window(self, nbytes: int) -> Window | None:
        return None  # of the host; device arrays have no place in it

    def abort(self, code: int) -> None:
        self.inner.abort(code)

    def close(self) -> None:
        self.inner.close()


class _HostReceive:
    """A receive that lets staged sends go on. Why: ranks that all wait to receive would never look at what they have to send."""

    def __init__(self, staged: Staged, wire: Pending) -> None:
        self._staged, self._wire = staged, wire
        self.source, self.nbytes = -1, 0

    def done(self) -> bool:
        self._staged.advance()
        finished = self._wire.done()
        if finished:
            self.source, self.nbytes = self._wire.source, self._wire.nbytes
        return finished

    def cancel(self) -> None:
        self._wire.cancel()


class _Ordered:
    """A staged send that lets the ones before it go first."""

    source = -1
    nbytes = 0

    def __init__(self, staged: Staged, send: _Send) -> None:
        self._staged, self._send = staged, send

    def done(self) -> bool:
        self._staged.advance()
        return self._send not in self._staged._waiting and self._send.done()

    def cancel(self) -> None:
        self._send.cancel()

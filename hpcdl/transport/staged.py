"""Device memory over a transport that takes host memory only: through pinned buffers, never waiting for the device."""

from __future__ import annotations

from contextlib import nullcontext

from ..arrays import HOST, Array, of
from ..arrays.bus import bus_of
from ..arrays.queue import queue_of
from .around import Around
from .base import Pending
from .line import Held

__all__ = ["Staged"]


class _Send:
    """Device -> pinned host beside what the device computes, then the wire once an event says that the copy is final."""

    source = -1
    nbytes = 0

    def __init__(self, staged: Staged, buf: Array, peer: int, tag: int) -> None:
        buf = buf.view("u1")
        self._staged, self._peer, self._tag, self._device = staged, peer, tag, buf
        self._bus = bus_of(of(buf))
        self._host = self._bus.take(buf.nbytes)
        self._copied = self._bus.to_host(buf, self._host)
        self._wire: Pending | None = None
        self._given_up = self._finished = False

    def begin(self) -> bool:
        if self._wire is None and not self._given_up and self._copied.done():
            self._wire = self._staged.inner.isend(self._host, self._peer, self._tag)
        return self._wire is not None or self._given_up

    def done(self) -> bool:
        self._staged.line.advance()
        if not self._finished and self._wire is not None and self._wire.done():
            self._finished = True
            self._bus.give(self._host)
        return self._finished

    def cancel(self) -> None:
        self._given_up = True
        if self._wire is not None:
            self._wire.cancel()


class _Receive:
    """The wire -> pinned host, then queued to the device in the order of the stream that was current when it was posted."""

    def __init__(self, staged: Staged, buf: Array, peer: int | None, tag: int) -> None:
        self._staged, self._queue = staged, queue_of(of(buf))
        self._buf, self._bus = buf.view("u1"), bus_of(of(buf))
        self._host = self._bus.take(buf.nbytes)
        self._wire = staged.inner.irecv(self._host, peer, tag)
        self._finished = False
        self.source, self.nbytes = -1, 0

    def done(self) -> bool:
        self._staged.line.advance()
        if not self._finished and self._wire.done():
            self.source, self.nbytes = self._wire.source, self._wire.nbytes
            with self._queue or nullcontext():
                self._bus.to_device(self._host[: self.nbytes], self._buf[: self.nbytes])
            self._finished = True
        return self._finished

    def cancel(self) -> None:
        self._wire.cancel()


class Staged(Around):
    """Any transport, with device buffers staged through the host; host buffers pass straight through.

    What the device has encoded crosses the bus and the wire as it is. Messages keep their order per peer and tag: a later one is not
    handed to the wire before the earlier ones.
    """

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        if of(buf) is HOST and not self.line.busy((peer, tag)):
            return self.inner.isend(buf, peer, tag)
        host = of(buf) is HOST
        message = Held(self.line, lambda: self.inner.isend(buf, peer, tag)) if host else _Send(self, buf, peer, tag)
        self.line.add((peer, tag), message)
        return message

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        if of(buf) is not HOST:
            return _Receive(self, buf, peer, tag)
        message = Held(self.line, lambda: self.inner.irecv(buf, peer, tag))
        message.begin()  # at once; what waits in the line goes on when it is asked
        return message

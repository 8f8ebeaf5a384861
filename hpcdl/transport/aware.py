"""Device memory over a transport that takes it as it is: a GPU-aware MPI gets addresses, once the device is done there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from ..arrays import HOST, Array, of
from ..arrays.queue import queue_of
from .around import Around
from .base import DeviceBytes, Pending
from .line import Held, Line

__all__ = ["Aware"]


class _Message(Held):
    """A send or a receive that goes to the library once an event says that the device has come so far.

    For a send that is the end of what makes the bytes; for a receive, of what was queued earlier and may still read or write where they
    land. What is queued after `done` sees them.
    """

    def __init__(self, line: Line, buf: Array, hand_over: Callable[[DeviceBytes], Pending]) -> None:
        library = of(buf)
        super().__init__(line, lambda: hand_over(DeviceBytes(int(buf.data.ptr), buf.nbytes, buf)))
        self._queue, self._ready = queue_of(library) or nullcontext(), library.event()

    def begin(self) -> bool:
        """Whether it has gone; not before the device is done."""
        if self._wire is None and not self._given_up and not self._ready.done():
            return False
        with self._queue:  # the library copies on the device that is current, in whichever thread this is
            return super().begin()

    def _ask(self, wire: Pending) -> bool:
        with self._queue:
            return super()._ask(wire)


class Aware(Around):
    """A transport that takes `DeviceBytes`, for arrays; host buffers pass through. No copy of ours, no waiting for the device.

    Sends, and receives, of one tag between two ranks go in the order in which they were asked for. Only messages: a library's collectives
    on device memory are not used, since what they do there differs from library to library, and is a segmentation fault in some.
    """

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        return self._put(("to", peer, tag), buf, lambda memory: self.inner.isend(memory, peer, tag))

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        return self._put(("from", peer, tag), buf, lambda memory: self.inner.irecv(memory, peer, tag))

    def _put(self, key: tuple[str, int | None, int], buf: Array, hand_over: Callable[[Array], Pending]) -> Pending:
        host = of(buf) is HOST
        message = Held(self.line, lambda: hand_over(buf)) if host else _Message(self.line, buf, hand_over)
        self.line.add(key, message)
        return message

"""Keeps an operation in the queue of the device that it began in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays import Arrays
from ..arrays.queue import HasQueue, Queue, join, queue_of
from ..transport.base import Pending
from .execute import Body

__all__ = ["Following", "follow"]


class Following:
    """A body, each step of which runs in `queue` of `library`, whichever thread takes it."""

    def __init__(self, body: Body, library: HasQueue, queue: Queue) -> None:
        self._body, self._library, self._queue = body, library, queue

    def __iter__(self) -> Following:
        return self

    def __next__(self) -> Pending:
        with self._queue:
            return next(self._body)

    def close(self) -> None:
        """End it where it stands."""
        with self._queue:
            self._body.close()

    def join(self) -> None:
        """What this thread queues from now on comes after what the body has queued, whichever queue is current here."""
        join(self._library, self._queue)


def follow(library: Arrays, call: Callable[[int, Any], Body]) -> Callable[[int, Any], Any]:
    """`call`, with every step of its body in the queue of `library` that is current now; on the host, just `call`.

    Why: the device and the stream that are current belong to a thread in CUDA, and the progress loop runs in two of them. Work queued
    from the other one would have no order with the user's.
    """
    queue = queue_of(library)
    if queue is None or not isinstance(library, HasQueue):
        return call
    return lambda tag, header: Following(call(tag, header), library, queue)

"""Work on a device stays in the queue (device and stream) that it began in, whichever thread goes on with it."""

from __future__ import annotations

import threading
from typing import Any, Protocol, runtime_checkable

from .library import Arrays

__all__ = ["HasQueue", "Mark", "Queue", "join", "own_thread", "queue_of", "serve"]

_thread = threading.local()


def serve() -> None:
    """Note that this thread is the package's own, and no program's: it may stay on the device that it last worked on.

    Why: to make a device current makes a context there since CUDA 12, some 300 MB. A thread that went back to device 0, which is current
    where none was chosen, would take that from the first GPU of a node for each of its ranks.
    """
    _thread.serves = True


def own_thread() -> bool:
    """Whether this thread has called `serve`."""
    return getattr(_thread, "serves", False)


class Mark(Protocol):
    """A place in a queue: behind all work that was there when it was set."""

    def again(self) -> None:
        """Set it again, in the queue that is current now, which is of the device that it was made on."""
        ...

    def done(self) -> bool:
        """Whether the device has come so far. Never blocks."""
        ...

    def hold_back(self) -> None:
        """Whatever is put into the current queue from now on begins once the device has come to this mark. The host does not wait."""
        ...


class Queue(Protocol):
    """What was current when it was made; as a context, current again, in any thread; errors that pass out of it are marked.

    `key` tells queues apart; `device`: its name.
    """

    key: Any
    device: str

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None: ...


@runtime_checkable
class HasQueue(Protocol):
    """An array library whose work waits in queues. The host's has none: its work is done when a call returns."""

    def queue(self) -> Queue:
        """What is current in this thread now."""
        ...

    def beside(self) -> Queue:
        """A new queue of the current device, which has no order with any other but by marks."""
        ...

    def mark(self) -> Mark:
        """A mark in the queue that is current now."""
        ...

    def lap(self) -> Mark:
        """The same, with the time at which the device comes to it."""
        ...

    def seconds(self, one: Mark, other: Mark) -> float:
        """From one of `lap` to another, both done."""
        ...


def queue_of(library: Arrays) -> Queue | None:
    """The queue that is current now, or None where there are none."""
    return library.queue() if not library.on_host and isinstance(library, HasQueue) else None


def join(library: HasQueue, queue: Queue) -> None:
    """The current queue goes on behind all that is in `queue` now, without the host's waiting. Nothing to do where they are the same."""
    if library.queue().key != queue.key:
        with queue:
            mark = library.mark()
        mark.hold_back()

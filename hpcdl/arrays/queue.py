"""Work on a device stays in the queue (device and stream) that it began in, whichever thread goes on with it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from .library import Arrays

__all__ = ["HasQueue", "Queue", "queue_of"]


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


def queue_of(library: Arrays) -> Queue | None:
    """The queue that is current now, or None where there are none."""
    return library.queue() if not library.on_host and isinstance(library, HasQueue) else None

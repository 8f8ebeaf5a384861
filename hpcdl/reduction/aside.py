"""Where buckets are reduced: on a device beside what the caller computes, in streams of their own; on the host where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from ..arrays import Arrays
from ..arrays.queue import HasQueue, Mark, Queue, join
from ..collectives.backoff import Backoff
from ..collectives.progress import Engine

__all__ = ["Aside", "beside", "settle"]


_MOST_MARKS = 16  # that are kept for a bucket from step to step


class Aside(Protocol):
    """The order between the caller's work and that on buckets, which are known by their numbers."""

    def reserve(self, nbytes: Sequence[int]) -> None:
        """See that each bucket will find so much memory for its wires, beside those that are under way with it. Raises MemoryError."""
        ...

    def note(self, bucket: int) -> None:
        """What the caller has queued so far, in the stream that is current now, makes a part of `bucket` complete."""
        ...

    def within(self, bucket: int) -> AbstractContextManager[Any]:
        """Within: whatever is queued belongs to the reduction of `bucket`."""
        ...

    def begin(self, bucket: int, first: Callable[[], None]) -> Callable[[], None] | None:
        """What is to be called in there when the reduction begins, if anything: it then comes after all that was noted. `first` is called
        before anything is reduced.
        """
        ...

    def after_all(self) -> AbstractContextManager[Any]:
        """Within: what is queued comes after all reductions, and the caller's own work does not wait for it."""
        ...

    def join(self) -> None:
        """What the caller queues from now on, in the stream that is current, comes after all reductions."""
        ...


class _Here:
    """The host: work is done when a call returns."""

    def reserve(self, nbytes: Sequence[int]) -> None:
        pass

    def note(self, bucket: int) -> None:
        pass

    def within(self, bucket: int) -> AbstractContextManager[Any]:
        return nullcontext()

    def begin(self, bucket: int, first: Callable[[], None]) -> Callable[[], None] | None:
        first()
        return None

    def after_all(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def join(self) -> None:
        pass


class _Streams:
    """A stream for each bucket that is under way at a time. Marks order them; nothing waits for the device.

    Why not one stream for all: the host runs ahead of the device, so that all buckets are ready early, as the host sees it. A bucket that
    began in the same stream would hold up the rest of those before it until its own gradients are computed.

    Why a mark for each stream of the caller's: gradients of one bucket may come from several, and from several threads.
    """

    def __init__(self, library: HasQueue, arrays: Arrays, in_flight: int) -> None:
        self._library, self._arrays, self._in_flight = library, arrays, in_flight
        self._queues: dict[int, Queue] = {}
        self._marks: dict[int, dict[Any, Mark]] = {}  # by bucket, and by the stream in which they are

    def reserve(self, nbytes: Sequence[int]) -> None:
        held = []  # until all are there: one that is given back goes to the next stream, where that is the last resort
        for bucket in range(min(self._in_flight, len(nbytes))):
            with self.within(bucket):
                held.append(self._arrays.empty(max(nbytes[bucket :: self._in_flight]), "u1"))
        del held  # the library keeps each for its stream

    def note(self, bucket: int) -> None:
        marks, key = self._marks.setdefault(bucket, {}), self._library.queue().key
        if key in marks:
            marks[key].again()
        else:
            marks[key] = self._library.mark()

    def within(self, bucket: int) -> Queue:
        number = bucket % self._in_flight
        if number not in self._queues:
            self._queues[number] = self._library.beside()
        return self._queues[number]

    def begin(self, bucket: int, first: Callable[[], None]) -> Callable[[], None] | None:
        def begin() -> None:
            for mark in self._marks.get(bucket, {}).values():
                mark.hold_back()
            first()

        return begin

    @contextmanager
    def after_all(self) -> Iterator[None]:
        with self.within(0):
            for queue in self._queues.values():
                join(self._library, queue)
            yield

    def join(self) -> None:
        for queue in self._queues.values():
            join(self._library, queue)
        for marks in self._marks.values():
            if len(marks) > _MOST_MARKS:  # of streams that come and go
                marks.clear()


def beside(library: Arrays, in_flight: int) -> Aside:
    """Where buckets of `library` are reduced, of which `in_flight` are under way at a time, in the order of their numbers."""
    return _Streams(library, library, in_flight) if isinstance(library, HasQueue) else _Here()


def settle(library: Arrays, engine: Engine) -> None:
    """Return once the device has done all that is queued in the current stream; operations go on meanwhile."""
    mark, backoff = library.event(), Backoff()
    while not mark.done():
        backoff.pause(engine.poll())

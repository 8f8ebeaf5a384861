"""The way between device memory and the host: pinned memory that is used again, and copies on streams of their own."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from threading import Lock
from typing import Protocol, runtime_checkable

from .library import Array, Arrays, Event

__all__ = ["Bus", "HasBus", "bus_of"]

_KEEP_BYTES = 1 << 28  # of pinned memory that nobody uses now; the system has less to give to others meanwhile


class Bus:
    """Pinned buffers by size class, and copies that run beside what the device computes.

    down, up: queue a copy to the host and to the device, and give the event behind it. fresh: makes pinned memory. Any thread may call.

    Why pinned memory is kept: to pin fresh memory takes the driver longer than to copy into it.
    """

    def __init__(self, fresh: Callable[[int], Array], down: Callable[[Array, Array], Event], up: Callable[[Array, Array], Event]) -> None:
        self._fresh, self._down, self._up = fresh, down, up
        self._free: dict[int, list[Array]] = defaultdict(list)
        self._copying: deque[tuple[Event, Array, bool]] = deque()  # and whether it is free afterwards
        self._lost: list[Array] = []  # which nobody may have any more
        self._lock = Lock()
        self._kept = 0
        self.made = 0  # buffers so far

    def take(self, nbytes: int) -> Array:
        """A host array of `nbytes` (uint8) with undefined values, that the device can copy to and from without blocking."""
        size = 1 << max(nbytes - 1, 511).bit_length()
        with self._lock:
            self._tidy()
            if self._free[size]:
                self._kept -= size
                return self._free[size].pop()[:nbytes]
            self.made += 1
        return self._fresh(size)[:nbytes]

    def give(self, host: Array) -> None:
        """Take `host` back. Nobody reads or writes it any more: neither a copy nor the network."""
        with self._lock:
            self._put(host)

    def to_host(self, source: Array, target: Array) -> Event:
        """Queue a copy of `source` into `target`, behind all that is queued on the current stream, which goes on meanwhile.

        `target` holds it once the event is done; until then `source` must stay as it is.
        """
        event = self._down(source, target)
        with self._lock:
            self._copying.append((event, target, False))  # its owner may give the message up, and forget it, before that
        return event

    def to_device(self, source: Array, target: Array) -> None:
        """Queue a copy of `source` into `target`, behind all that is queued on the current stream; what is queued there later sees it.

        Takes `source` back.
        """
        event = self._up(source, target)
        with self._lock:
            self._copying.append((event, source, True))

    def _tidy(self) -> None:
        """Let go of what the device is done with."""
        while self._copying:
            event, host, free = self._copying[0]
            try:
                if not event.done():
                    return
            except Exception:  # a device that is lost, of which whoever waits for it is told; nobody knows what it does with `host` now
                self._lost.append(host)
                free = False
            self._copying.popleft()
            if free:
                self._put(host)

    def _put(self, host: Array) -> None:
        whole = host.base  # what `take` hands out is a view of it
        if self._kept + whole.nbytes <= _KEEP_BYTES:
            self._kept += whole.nbytes
            self._free[whole.nbytes].append(whole)


@runtime_checkable
class HasBus(Protocol):
    """An array library whose memory the network cannot reach by itself."""

    bus: Bus


def bus_of(library: Arrays) -> Bus:
    """The bus of a library that has one."""
    assert isinstance(library, HasBus), f"{library.name} needs no bus"
    return library.bus

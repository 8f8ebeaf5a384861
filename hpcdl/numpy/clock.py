"""How long the parts of a step take: by the host's clock, or by a device's own, which the host runs ahead of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any

from ..arrays import Arrays
from ..arrays.queue import HasQueue

__all__ = ["Clock"]

_MOST = 4096  # steps whose times a device may owe


class Clock:
    """Times between `now`s. On a device these are events in the current stream, whose times are known once it has come so far."""

    def __init__(self, library: Arrays) -> None:
        self._library = library
        self._open: deque[tuple[Sequence[Any], Callable[[list[float]], None]]] = deque()

    def now(self) -> Any:
        """A time."""
        return self._library.lap() if isinstance(self._library, HasQueue) else perf_counter()

    def between(self, times: Sequence[Any], tell: Callable[[list[float]], None]) -> None:
        """Call `tell` with the seconds from each of `times` to the next, as soon as they are known. Never waits."""
        self._open.append((times, tell))
        self.settle()
        if len(self._open) > _MOST:
            self._open.popleft()

    def settle(self) -> None:
        """Tell what is known by now: everything, after the host has waited for the device anyway."""
        library = self._library
        while self._open and (not isinstance(library, HasQueue) or self._open[0][0][-1].done()):
            times, tell = self._open.popleft()
            tell([library.seconds(one, other) if isinstance(library, HasQueue) else other - one for one, other in pairwise(times)])

"""Waiting that costs almost nothing: pauses that grow with the time waited already."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ..transport.base import Pending

__all__ = ["Backoff", "comes", "give_way"]

_SPIN = 200e-6  # seconds of testing, giving the core away in between, before the first real pause, which costs some 60e-6 to end
_LONGEST_PAUSE = 1e-3
_LOOKS = 40  # some microseconds
_PATIENCE = 1e-3  # seconds of looking for what is in memory, which takes less time than a round of the progress loop


give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))  # the core, to whoever waits for it


class Backoff:
    """Pauses that grow with the time waited already: a wait gets at most a quarter longer, and a long one costs almost nothing.

    Where the last wait was a long one, as between the pieces of a large array on a slow network, the next begins with half of it.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._last = 0.0  # seconds of the last wait that ended well

    def pause(self, moved: bool) -> None:
        """Pause, unless something has just moved."""
        now = time.perf_counter()
        waited = now - self._since
        if moved:
            self._since, self._last = now, max(waited, self._last / 2)
        elif max(waited, self._last / 2) < _SPIN:
            give_way()
        else:
            time.sleep(min(max(waited / 4, self._last / 2 - waited), _LONGEST_PAUSE))


def comes(pending: Pending, roomy: bool) -> bool:
    """Whether it is done within a millisecond. Where there are cores for all ranks (`roomy`), this one is not given away at once."""
    for _ in range(_LOOKS if roomy else 0):
        if pending.done():
            return True
    end = time.perf_counter() + _PATIENCE
    while not pending.done():
        if time.perf_counter() > end:
            return False
        give_way()
    return True

"""Turns: operations of one rank that share something may start in any order, and use it one after another."""

from __future__ import annotations

__all__ = ["Turn", "Turns"]


class Turn:
    """A place in a queue; something to wait for, like a message."""

    source = -1
    nbytes = 0

    def __init__(self, before: Turn | None) -> None:
        self.passed = False  # to be set by its holder at the end
        self._before = before

    def done(self) -> bool:
        """Whether all earlier holders have passed."""
        if self._before is not None and self._before.passed:
            self._before = None
        return self._before is None

    def cancel(self) -> None:
        """Leave the queue."""
        self.passed = True


class Turns:
    """A queue. All ranks must queue up in the same order."""

    def __init__(self) -> None:
        self._last: Turn | None = None

    def idle(self) -> bool:
        """Whether nobody holds a turn or waits for one."""
        return self._last is None or self._last.passed

    def take(self) -> Turn:
        """Queue up behind all who have done so before."""
        self._last = Turn(self._last)
        return self._last

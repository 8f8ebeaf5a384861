"""Messages that may not go at once: a line of them for each peer and tag, so that none overtakes another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

from .base import Pending

__all__ = ["Held", "Line", "Waiting"]


class Waiting(Protocol):
    """A message that is not under way yet."""

    def begin(self) -> bool:
        """Hand it over if it may go now; whether it has gone, or is wanted no more. Never blocks."""
        ...


class Line:
    """Whoever asks any message whether it is done lets all go that may.

    Why: ranks that all wait to receive would never look at what they have to send.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Waiting]] = {}

    def busy(self, key: Hashable) -> bool:
        """Whether anybody waits there."""
        return key in self._waiting

    def add(self, key: Hashable, message: Waiting) -> None:
        """Let `message` go once those before it in the line `key` have gone."""
        self._waiting.setdefault(key, deque()).append(message)
        self.advance()

    def advance(self) -> None:
        """Hand over what may go, in order."""
        for key, queue in tuple(self._waiting.items()):
            while queue and queue[0].begin():
                queue.popleft()
            if not queue:
                del self._waiting[key]


class Held:
    """A message that `go` makes once those before it in its line have gone."""

    def __init__(self, line: Line, go: Callable[[], Pending]) -> None:
        self._line, self._go = line, go
        self._wire: Pending | None = None
        self._given_up = False
        self.source, self.nbytes = -1, 0

    def begin(self) -> bool:
        """See `Waiting`."""
        if self._wire is None and not self._given_up:
            self._wire = self._go()
        return True

    def done(self) -> bool:
        """Whether it has been made, and is done."""
        self._line.advance()
        return self._wire is not None and self._ask(self._wire)

    def _ask(self, wire: Pending) -> bool:
        finished = wire.done()
        if finished:
            self.source, self.nbytes = wire.source, wire.nbytes
        return finished

    def cancel(self) -> None:
        """Want it no more."""
        self._given_up = True
        if self._wire is not None:
            self._wire.cancel()

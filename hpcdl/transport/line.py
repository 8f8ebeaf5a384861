"""Messages that may not go at once: a line of them for each peer and tag, so that none overtakes another."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Protocol

__all__ = ["Line", "Waiting"]


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

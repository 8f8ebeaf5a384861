"""What transports for device memory have in common: the transport of host memory that they are around."""

from __future__ import annotations

from typing import TypeVar

from .base import NativeCalls, Transport, Window
from .line import Line

__all__ = ["Around"]

_Self = TypeVar("_Self", bound="Around")


class Around:
    """All but the messages. `line`: those that may not go yet."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.rank, self.size, self.ranks = inner.rank, inner.size, inner.ranks
        self.nodes = inner.nodes
        self.tags, self.threaded = inner.tags, inner.threaded
        self.native: NativeCalls | None = None
        self.direct = False
        self.line = Line()

    def group(self: _Self, ranks: tuple[int, ...], tag: int) -> _Self:
        return type(self)(self.inner.group(ranks, tag))

    def window(self, nbytes: int) -> Window | None:
        return None  # of the host; device arrays have no place in it

    def abort(self, code: int) -> None:
        self.inner.abort(code)

    def close(self) -> None:
        self.inner.close()

"""Some ranks of another transport, under new numbers, in the same tag space."""

from __future__ import annotations

from ..arrays import Array
from .base import NativeCalls, Pending, Transport, Window, renumber

__all__ = ["Subset"]


class Subset:
    """Messages among `members` (ranks of `inner`) before they have a transport of their own. The caller sees to the tags."""

    def __init__(self, inner: Transport, members: tuple[int, ...]) -> None:
        self.inner = inner
        self._members = members
        self.rank, self.size = members.index(inner.rank), len(members)
        self.ranks = tuple(inner.ranks[member] for member in members)
        self.nodes = renumber(inner.nodes[member] for member in members)
        self.tags, self.threaded = inner.tags, inner.threaded
        self.native: NativeCalls | None = None
        self.direct = inner.direct

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        return self.inner.isend(buf, self._members[peer], tag)

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        return self.inner.irecv(buf, None if peer is None else self._members[peer], tag)

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        return self.inner.group(tuple(self._members[rank] for rank in ranks), tag)

    def window(self, nbytes: int) -> Window | None:
        return None

    def abort(self, code: int) -> None:
        self.inner.abort(code)

    def close(self) -> None:
        pass

"""Counts what goes over another transport."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array
from .base import Pending, Transport, Window

__all__ = ["Metered", "Traffic"]


@dataclass
class Traffic:
    """Payload sent so far by this rank: bytes and messages."""

    bytes_sent: int = 0
    messages_sent: int = 0

    def forget(self) -> None:
        """Count from zero."""
        self.bytes_sent = self.messages_sent = 0


class Metered:
    """Any transport, counted. Groups made from it count into the same `traffic`."""

    def __init__(self, inner: Transport, traffic: Traffic | None = None) -> None:
        self.inner = inner
        self.traffic = traffic or Traffic()
        self.rank, self.size, self.ranks = inner.rank, inner.size, inner.ranks
        self.nodes = inner.nodes
        self.tags, self.threaded = inner.tags, inner.threaded
        self.native = inner.native  # its calls are not counted
        self.direct = inner.direct

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        self.traffic.bytes_sent += buf.nbytes
        self.traffic.messages_sent += 1
        return self.inner.isend(buf, peer, tag)

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        return self.inner.irecv(buf, peer, tag)

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        return Metered(self.inner.group(ranks, tag), self.traffic)

    def window(self, nbytes: int) -> Window | None:
        return self.inner.window(nbytes)

    def abort(self, code: int) -> None:
        self.inner.abort(code)

    def close(self) -> None:
        self.inner.close()

"""Ranks as threads of one process: the same collectives with no MPI, for tests and for a world of one.

Messages are rendezvous: a send is done when its receiver has copied the bytes, so that code which relies on buffering hangs here first.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays import HOST, Array, of
from ..errors import InvalidArgument
from .base import NativeCalls, Pending, Transport, TransportFailure, Truncated, Window, renumber
from .turns import Turn

__all__ = ["ThreadHub", "ThreadTransport"]

Key = tuple[Any, int, int]  # group, receiver, tag


class ThreadHub:
    """The meeting place of `size` ranks."""

    def __init__(self, size: int, nodes: int = 1) -> None:
        self.size = size
        self.nodes = nodes
        self.lock = threading.Lock()
        self.sends: dict[Key, deque[_Message]] = defaultdict(deque)
        self.receives: dict[Key, deque[_Message]] = defaultdict(deque)
        self.windows: dict[Any, tuple[Array, ...]] = {}
        self.aborted: int | None = None

    def transport(self, rank: int) -> ThreadTransport:
        """The transport of one rank."""
        return ThreadTransport(self, (), tuple(range(self.size)), rank)


@dataclass(eq=False)
class _Message:
    hub: ThreadHub
    key: Key
    buf: Array
    source: int  # of a receive: the rank it is for, or -1 for any, until it has come
    nbytes: int = 0
    finished: bool = False
    failure: TransportFailure | None = None
    sending: bool = field(default=False)

    def done(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return self.finished

    def cancel(self) -> None:
        with self.hub.lock:
            queue = (self.hub.sends if self.sending else self.hub.receives)[self.key]
            if self in queue:
                queue.remove(self)


class ThreadTransport:
    """Messages between the threads of one hub."""

    tags = 1 << 30
    threaded = True
    native: NativeCalls | None = None
    direct = False

    def __init__(self, hub: ThreadHub, name: Any, ranks: tuple[int, ...], world_rank: int) -> None:
        self.hub = hub
        self.ranks = ranks
        self.size = len(ranks)
        self.rank = ranks.index(world_rank)
        self.nodes = renumber(rank * hub.nodes // hub.size for rank in ranks)
        self._windows = 0
        self._name = name

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        message = _Message(self.hub, (self._name, peer, tag), _bytes(buf), self.rank, sending=True)
        with self.hub.lock:
            for receive in self.hub.receives[message.key]:
                if receive.source in (-1, self.rank):
                    self.hub.receives[message.key].remove(receive)
                    _deliver(message, receive)
                    return message
            self.hub.sends[message.key].append(message)
        return message

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        message = _Message(self.hub, (self._name, self.rank, tag), _bytes(buf), -1 if peer is None else peer)
        with self.hub.lock:
            for send in self.hub.sends[message.key]:
                if message.source in (-1, send.source):
                    self.hub.sends[message.key].remove(send)
                    _deliver(send, message)
                    return message
            self.hub.receives[message.key].append(message)
        return message

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        world_ranks = tuple(self.ranks[r] for r in ranks)
        return ThreadTransport(self.hub, (self._name, tag, world_ranks), world_ranks, self.ranks[self.rank])

    def window(self, nbytes: int) -> Window | None:
        self._windows += 1
        neighbours = [rank for rank, node in enumerate(self.nodes) if node == self.nodes[self.rank]]
        key = (self._name, self._windows, tuple(neighbours))
        with self.hub.lock:
            parts = self.hub.windows.setdefault(key, tuple(np.zeros(nbytes, np.uint8) for _ in neighbours))
        return _Window(parts)

    def abort(self, code: int) -> None:
        self.hub.aborted = code

    def close(self) -> None:
        pass


class _Window:
    """Memory of this process."""

    def __init__(self, parts: tuple[Array, ...]) -> None:
        self.parts = parts

    def sync(self) -> None:
        pass

    def leave(self) -> None:
        self.parts = ()

    def close(self) -> Pending:
        self.leave()
        return Turn(None)


def _bytes(buf: Array) -> Array:
    if of(buf) is not HOST:
        raise InvalidArgument("ranks as threads exchange host memory only; wrap their transport in Staged for device arrays")
    return buf.view("u1")


def _deliver(send: _Message, receive: _Message) -> None:
    if send.buf.nbytes > receive.buf.nbytes:
        receive.failure = Truncated(f"a message of {send.buf.nbytes} bytes came where {receive.buf.nbytes} were expected")
    elif send.buf.nbytes:
        receive.buf[: send.buf.nbytes] = send.buf
    receive.source, receive.nbytes = send.source, send.buf.nbytes
    send.finished = receive.finished = True

"""What ranks and their coordinator send each other: pairs of small numbers, and the text of what is not known under a number yet."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..arrays import Array
from ..transport.base import Pending, Transport

__all__ = ["Post", "pack", "unpack"]

_TAG = 1
_CAPACITY = 1 << 16  # bytes of a message; longer ones travel in pieces
_HEAD = struct.Struct("<ii")

Pair = tuple[int, int]


def pack(pairs: list[Pair], texts: list[Any]) -> bytes:
    """Pairs of integers of 64 bits, and values as JSON."""
    text = json.dumps(texts).encode() if texts else b""
    flat = [number for pair in pairs for number in pair]
    return _HEAD.pack(len(pairs), len(text)) + struct.pack(f"<{len(flat)}q", *flat) + text


def unpack(data: bytes) -> tuple[list[Pair], list[Any]]:
    """What `pack` has packed.

    >>> unpack(pack([(1, -1), (2, 7)], ["a", [3]]))
    ([(1, -1), (2, 7)], ['a', [3]])
    """
    count, length = _HEAD.unpack_from(data)
    flat = struct.unpack_from(f"<{2 * count}q", data, _HEAD.size)
    text = data[_HEAD.size + 16 * count :]
    return list(zip(flat[::2], flat[1::2], strict=True)), json.loads(text) if length else []


class Post:
    """Messages of any length between rank 0 and the others, in order. Under the lock of the progress loop."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._inbox = np.empty(_CAPACITY, np.uint8)
        self._from = None if transport.rank == 0 else 0
        self._receive: Pending | None = transport.irecv(self._inbox, self._from, _TAG) if transport.size > 1 else None
        self._parts: dict[int, bytes] = {}
        self._sent: list[tuple[Pending, Array]] = []

    def send(self, peer: int, data: bytes) -> None:
        """Start to send; does not wait."""
        self._sent = [(pending, buf) for pending, buf in self._sent if not pending.done()]
        for begin in range(0, len(data), _CAPACITY - 1):
            piece = data[begin : begin + _CAPACITY - 1]
            more = begin + len(piece) < len(data)
            buf = np.frombuffer(bytes([more]) + piece, np.uint8)
            self._sent.append((self._transport.isend(buf, peer, _TAG), buf))

    def read(self) -> Iterator[tuple[int, bytes]]:
        """The messages that have come, each with the rank it came from."""
        while self._receive is not None and self._receive.done():
            source, data = self._receive.source, self._inbox[: self._receive.nbytes].tobytes()
            self._receive = self._transport.irecv(self._inbox, self._from, _TAG)
            whole = self._parts.pop(source, b"") + data[1:]
            if data[0]:
                self._parts[source] = whole
            else:
                yield source, whole

    def close(self) -> None:
        """Receive no more."""
        if self._receive is not None:
            self._receive.cancel()
            self._receive = None


class Numbers:
    """Numbers for values that both sides remember; the same value has the same number. Not more than `most`."""

    def __init__(self, most: int = 4096) -> None:
        self._numbers: dict[Any, int] = {}
        self._most = most
        self._spare = -1

    def number(self, value: Any, tell: Callable[[int], None]) -> int:
        """The number of `value`; `tell` is called with it where the other side does not know it. Numbers below 0 hold once."""
        found = self._numbers.get(value)
        if found is None:
            found = len(self._numbers) if len(self._numbers) < self._most else self._spare
            if found >= 0:
                self._numbers[value] = found
            tell(found)
        return found

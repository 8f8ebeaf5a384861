"""What ranks and their coordinator send each other: lines of small numbers, and the text of what is not known under a number yet."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..transport.base import Pending, Transport

__all__ = ["Line", "Numbers", "Post", "pack", "unpack"]

_TAG = 1
_CAPACITY = 1 << 16  # bytes of a message; longer ones travel in pieces
_HEAD = struct.Struct("<ii")


class Line(NamedTuple):
    """What is wanted or ordered, under its number; the number of the call where it has no name of its own; the bytes of small arrays."""

    code: int
    call: int
    data: bytes = b""


def pack(lines: Sequence[Line], texts: list[Any]) -> bytes:
    """Lines, whose integers have 64 bits, and values as JSON."""
    text = json.dumps(texts).encode() if texts else b""
    flat = chain.from_iterable((line.code, line.call, len(line.data)) for line in lines)
    head = _HEAD.pack(len(lines), len(text)) + struct.pack(f"<{3 * len(lines)}q", *flat)
    return b"".join((head, text, *(line.data for line in lines)))


def unpack(data: bytes) -> tuple[list[Line], list[Any]]:
    """What `pack` has packed.

    >>> unpack(pack([Line(1, -1), Line(2, 7, b"xyz")], ["a", [3]]))
    ([Line(code=1, call=-1, data=b''), Line(code=2, call=7, data=b'xyz')], ['a', [3]])
    """
    count, length = _HEAD.unpack_from(data)
    flat = struct.unpack_from(f"<{3 * count}q", data, _HEAD.size)
    begin = _HEAD.size + 24 * count
    text, lines = data[begin : begin + length], []
    begin += length
    for code, call, nbytes in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        lines.append(Line(code, call, data[begin : begin + nbytes]))
        begin += nbytes
    return lines, json.loads(text) if length else []


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

"""Scratch memory, used again and again: fresh pages cost more than the bytes that are written to them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..arrays import Array, Arrays
from ..arrays.queue import queue_of

__all__ = ["Pool", "Scratch"]

_KEEP_BYTES = 1 << 28
_ALIGN = 64


class Pool:
    """Buffers of bytes by size class, for one array library. Used under the progress loop's lock only.

    `peak`: the most bytes that were ever in use at once; `held`: bytes in use and kept for later, now.

    Why a device's queues share none: what one gives back may still be in use there when another takes it.
    """

    def __init__(self, library: Arrays) -> None:
        self._library = library
        self._free: dict[tuple[int, Any], list[Array]] = defaultdict(list)
        self._kept = self._used = self.peak = 0

    @property
    def held(self) -> int:
        return self._used + self._kept

    def take(self, nbytes: int) -> Array:
        """A uint8 array of `nbytes`, aligned to a cache line, with undefined values. Give back its `base`-compatible self with `give`."""
        size = _size_class(nbytes)
        self._used += size
        self.peak = max(self.peak, self._used)
        free = self._free[size, self._queue()]
        if free:
            self._kept -= size
            return free.pop()[:nbytes]
        raw = self._library.empty(size + _ALIGN, "u1")
        offset = -_address(raw) % _ALIGN
        return raw[offset : offset + size][:nbytes]

    def give(self, buf: Array) -> None:
        """Take `buf` back. Nobody may read or write it from now on."""
        size = _size_class(buf.nbytes)
        self._used -= size
        if buf.nbytes and self._kept + size <= _KEEP_BYTES:  # CuPy's empty arrays have no address
            self._kept += size
            self._free[size, self._queue()].append(_widen(buf, size))

    def _queue(self) -> Any:
        queue = queue_of(self._library)
        return None if queue is None else queue.key


class Scratch:
    """Buffers that one operation uses again and again, without asking the pool each time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._free: dict[int, list[Array]] = defaultdict(list)

    def take(self, nbytes: int) -> Array:
        """A uint8 array of `nbytes`."""
        free = self._free[nbytes]
        return free.pop() if free else self._pool.take(nbytes)

    def give(self, buf: Array) -> None:
        """Take `buf` back, for the next piece of its length."""
        self._free[buf.nbytes].append(buf)

    def release(self) -> None:
        """Give what was given back to the pool."""
        for bufs in self._free.values():
            for buf in bufs:
                self._pool.give(buf)
        self._free.clear()


def _size_class(nbytes: int) -> int:
    return 1 << max(nbytes - 1, 63).bit_length()


def _address(raw: Array) -> int:
    interface = getattr(raw, "__array_interface__", None) or raw.__cuda_array_interface__
    return int(interface["data"][0])


def _widen(buf: Array, size: int) -> Array:
    base = buf.base
    offset = _address(buf) - _address(base)
    return base[offset : offset + size]

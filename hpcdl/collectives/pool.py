"""Scratch memory, used again and again: fresh pages cost more than the bytes that are written to them."""

from __future__ import annotations

from collections import defaultdict

from ..arrays import Array, Arrays

__all__ = ["Pool"]

_KEEP_BYTES = 1 << 28
_ALIGN = 64


class Pool:
    """Buffers of bytes by size class, for one array library. Used under the progress loop's lock only."""

    def __init__(self, library: Arrays) -> None:
        self._library = library
        self._free: dict[int, list[Array]] = defaultdict(list)
        self._kept = 0

    def take(self, nbytes: int) -> Array:
        """A uint8 array of `nbytes`, aligned to a cache line, with undefined values. Give back its `base`-compatible self with `give`."""
        size = _size_class(nbytes)
        if self._free[size]:
            self._kept -= size
            return self._free[size].pop()[:nbytes]
        raw = self._library.empty(size + _ALIGN, "u1")
        offset = -_address(raw) % _ALIGN
        return raw[offset : offset + size][:nbytes]

    def give(self, buf: Array) -> None:
        """Take `buf` back. Nobody may read or write it from now on."""
        size = _size_class(buf.nbytes)
        if self._kept + size <= _KEEP_BYTES:
            self._kept += size
            self._free[size].append(_widen(buf, size))


def _size_class(nbytes: int) -> int:
    return 1 << max(nbytes - 1, 63).bit_length()


def _address(raw: Array) -> int:
    interface = getattr(raw, "__array_interface__", None) or raw.__cuda_array_interface__
    return int(interface["data"][0])


def _widen(buf: Array, size: int) -> Array:
    base = buf.base
    offset = _address(buf) - _address(base)
    return base[offset : offset + size]

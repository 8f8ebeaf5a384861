"""Random bits as a function of where they are used: the same on every machine and device, and nothing to store.

Integer operations only, so that a GPU makes the same bits. The mixing step is the finalizer of MurmurHash3 (Appleby 2011), twice: counter,
first half of the key, mix, second half, mix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array

__all__ = ["bits", "key", "uniform"]

_WORD, _LONG = (1 << 32) - 1, (1 << 64) - 1


def key(*numbers: int) -> int:
    """64 bits that are different for different `numbers`, such as (seed, step, rank).

    >>> key(0, 1) != key(1, 0)
    True
    """
    mixed = 0
    for number in numbers:  # one round of SplitMix64 (Steele et al. 2014) for each
        mixed = (mixed + number + 1) * 0x9E3779B97F4A7C15 & _LONG
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _LONG
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _LONG
        mixed ^= mixed >> 31
    return mixed


def bits(xp: Any, stream: int, begin: int, n: int) -> Array:
    """32 random bits for each of the counters begin … begin + n - 1 of `stream`, a `key`: uint32 (n,)."""
    x = xp.arange(n, dtype=np.uint32)
    shifted = xp.empty_like(x)
    for offset in (stream + begin, stream >> 32):
        x += np.uint32(offset & _WORD)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            xp.right_shift(x, np.uint32(shift), out=shifted)
            x ^= shifted
            x *= np.uint32(factor)
        xp.right_shift(x, np.uint32(16), out=shifted)
        x ^= shifted
    return x


def uniform(xp: Any, stream: int, begin: int, n: int) -> Array:
    """Odd multiples of 2^-17 in (0, 1), for elements begin … begin + n - 1 of `stream`: float32 (n,). `begin` must be even.

    Why 16 bits: one counter does for two elements, which is most of the time saved; what is drawn is still 1/2 on average.
    """
    halves = bits(xp, stream, begin // 2, -(-n // 2)).view("u2")[:n].astype("f4")
    halves += np.float32(0.5)
    halves *= np.float32(2.0**-16)
    return halves

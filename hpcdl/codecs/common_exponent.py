"""float16 that can be added as it is: exponents that all ranks agree on, with room for the sum. For libraries that sum what is sent."""

from __future__ import annotations

import numpy as np

from ..arrays import HOST, Array
from .base import blocks

__all__ = ["PLAIN", "CommonExponent", "exponents_of", "headroom"]

PLAIN = 32767  # instead of an exponent, where a value is NaN or infinite: wins every max, and then all cast plainly
_LEAST = -126  # its inverse is still a float32; the smallest float32 of all becomes 2^-23, which float16 holds
_TOP = 15  # sums of magnitude up to 2^15 leave a factor of two to float16's largest number, for what rounding adds


def headroom(size: int) -> int:
    """The power of two that makes room for the sum of `size` values.

    >>> [headroom(size) for size in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return (size - 1).bit_length()


def exponents_of(peaks: Array, size: int) -> Array:
    """For each largest magnitude, float32, the exponent e, int16, so that `size` such values times 2^-e sum to 2^15 at most."""
    _, exponent = np.frexp(peaks)  # peak < 2^exponent
    fitting = np.where(peaks == 0, _LEAST, np.maximum(exponent - _TOP + headroom(size), _LEAST))
    return np.where(np.isfinite(peaks), fitting, PLAIN).astype(np.int16)


class CommonExponent:
    """One rank's share of a sum of `size` ranks: float32 (n,), and an exponent for each block of 128 elements.

    The largest of all ranks' `exponents` must be written into them before `encode` and `decode`. Each value is rounded once, to 2^-11 of
    itself, and so is each of the size - 1 partial sums: the sum is within 2^-11 size^2 of the largest magnitude that its block has on any
    rank. NaN and infinity stay; beside them in a block, what float16 cannot hold becomes infinite.
    """

    def __init__(self, x: Array, size: int) -> None:
        self._x = x
        peaks = [HOST.peaks(x[elements].reshape(-1, width)) for elements, _, width in blocks(x.size)]
        self.exponents: Array = exponents_of(np.concatenate(peaks), size) if peaks else np.empty(0, np.int16)

    def encode(self) -> Array:
        """The share as float16 (n,)."""
        wire = HOST.empty(self._x.size, np.float16)
        powers = self._powers(-1)
        for elements, rows, width in blocks(self._x.size):
            scaled = self._x[elements].reshape(-1, width) * powers[rows, None]
            HOST.cast(scaled.reshape(-1), wire[elements])
        return wire

    def decode(self, wire: Array, out: Array) -> None:
        """Write what `wire`, a share or the sum of all, amounts to into `out`, float32 or float64 (n,)."""
        decoded = HOST.empty(wire.size, np.float32)
        HOST.cast(wire, decoded)
        powers = self._powers(1)
        for elements, rows, width in blocks(wire.size):
            part = decoded[elements].reshape(-1, width)
            np.multiply(part, powers[rows, None], out=out[elements].reshape(-1, width))

    def _powers(self, sign: int) -> Array:
        exponents = np.where(self.exponents == PLAIN, 0, self.exponents).astype(np.int32)
        powers: Array = np.ldexp(np.float32(1), sign * exponents)
        return powers

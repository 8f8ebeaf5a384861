"""What a codec is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..arrays import Array

__all__ = ["BLOCK", "Codec", "blocks"]

#: Elements that share one exponent or scale. Bucket layouts align parameters to it, so that no block spans two of them.
BLOCK = 128


class Codec(Protocol):
    """A stateless translation between float32 elements and bytes.

    ``|decode(encode(x)) - x| <= error * max|x|`` over each block, for elements that are zero or of magnitude 1e-35 to 3.3e38 (above, 16-bit
    floats round to infinity). NaN and infinity never decode to a finite number.
    """

    name: str  # as the registry knows it, with its parameters
    exact: bool  # the wire is the element's own bytes, of any dtype
    error: float

    def nbytes(self, n: int) -> int:
        """Size of the wire of `n` elements; fixed by `n` alone, so that receives are posted before anything is encoded."""
        ...

    def encode(self, x: Array, wire: Array) -> None:
        """Write the wire of `x` (float32, contiguous) into `wire` (uint8, ``nbytes(x.size)`` long, aligned to 4 bytes)."""
        ...

    def decode(self, wire: Array, out: Array) -> None:
        """Write what `wire` holds into `out` (float32, contiguous)."""
        ...


def blocks(n: int) -> Iterator[tuple[slice, slice, int]]:
    """Cut `n` elements into matrices of whole blocks: (elements, blocks, block length), the last block perhaps a short one.

    >>> list(blocks(300))
    [(slice(0, 256, None), slice(0, 2, None), 128), (slice(256, 300, None), slice(2, 3, None), 44)]
    """
    whole = n // BLOCK
    if whole:
        yield slice(0, whole * BLOCK), slice(0, whole), BLOCK
    if n % BLOCK:
        yield slice(whole * BLOCK, n), slice(whole, whole + 1), n % BLOCK

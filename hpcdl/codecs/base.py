"""What a codec is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from ..arrays import Array

__all__ = ["BLOCK", "Codec", "blocks", "encoder"]

#: Elements that share one exponent or scale. Bucket layouts align parameters to it, so that no block spans two of them.
BLOCK = 128


class Codec(Protocol):
    """A stateless translation between float32 elements and bytes.

    ``|decode(encode(x)) - x| <= error * max|x|`` over each block, for elements that are zero or of magnitude 1e-35 to 3.3e38 (above, 16-bit
    floats round to infinity). NaN and infinity never decode to a finite number.
    """

    @property
    def name(self) -> str:
        """As the registry knows it, with its parameters."""
        ...

    @property
    def exact(self) -> bool:
        """Whether the wire is the element's own bytes, of any dtype."""
        ...

    @property
    def error(self) -> float:
        """The bound above."""
        ...

    def nbytes(self, n: int) -> int:
        """Size of the wire of `n` elements; fixed by `n` alone, so that receives are posted before anything is encoded."""
        ...

    def encode(self, x: Array, wire: Array) -> None:
        """Write the wire of `x` (float32, contiguous) into `wire` (uint8, ``nbytes(x.size)`` long, aligned to 4 bytes)."""
        ...

    def decode(self, wire: Array, out: Array) -> None:
        """Write what `wire` holds into `out` (float32, contiguous)."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A codec that draws random bits, and so encodes differently in each place."""

    def at(self, step: int, rank: int, element: int) -> Codec:
        """The same codec, for elements from number `element` on, encoded by `rank` in operation `step`."""
        ...


def encoder(codec: Codec, step: int, rank: int, element: int) -> Codec:
    """`codec` as it encodes there; most encode alike everywhere."""
    return codec.at(step, rank, element) if isinstance(codec, Placed) else codec


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

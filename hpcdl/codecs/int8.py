"""int8 with one float32 scale per block."""

from __future__ import annotations

from collections.abc import Iterator

from ..arrays import Array, of
from .base import BLOCK, blocks

__all__ = ["Int8", "scale"]

_LEVELS = 127
_SMALLEST = 2.0**-126  # a scale below this would be subnormal, and processors disagree on those
_LARGEST = 2.0**121 * (1 + 1 / 128)  # 127 times this is finite still


class Int8:
    """Scaled int8: n bytes and one float32 scale per block of 128; error at most 1/254 of the block's largest magnitude.

    Wire: ceil(n / 128) float32 scales s = peak / 127 (correctly rounded), then n int8 values q = round(x / s), ties to even; an element is
    q * s. A block that holds a NaN or infinity decodes to NaN throughout: its loss is seen, not hidden. Symmetric linear
    quantisation, rounded to nearest: use it with error feedback, or it is biased.
    """

    name = "int8"
    exact = False
    error = 1 / 254 * (1 + 2.0**-16)

    def nbytes(self, n: int) -> int:
        return n + 4 * -(-n // BLOCK)

    def encode(self, x: Array, wire: Array) -> None:
        for values, quotients in scale(x, wire):
            of(x).round_to_int8(quotients, values)

    def decode(self, wire: Array, out: Array) -> None:
        library = of(out)
        scales, values = _parts(wire, out.size)
        library.xp.copyto(out, values)
        for elements, rows, width in blocks(out.size):
            part = out[elements].reshape(-1, width)
            library.xp.multiply(part, scales[rows][:, None], out=part)


def scale(x: Array, wire: Array) -> Iterator[tuple[Array, Array]]:
    """Write the scales of `x` into `wire`; gives where rounded quotients x / s belong, and the quotients, part by part and in order."""
    library = of(x)
    xp = library.xp
    scales, values = _parts(wire, x.size)
    for elements, rows, width in blocks(x.size):
        part = x[elements].reshape(-1, width)
        peaks = library.peaks(part)
        chosen = xp.clip(peaks / xp.float32(_LEVELS), xp.float32(_SMALLEST), xp.float32(_LARGEST))
        scales[rows] = xp.where(xp.isfinite(peaks), chosen, xp.float32("nan"))
        quotients = part / chosen[:, None]
        if library.on_host and not xp.isfinite(chosen).all():
            quotients[xp.isnan(chosen)] = 0  # what a cast makes of NaN differs between processors
        yield values[elements], quotients.reshape(-1)


def _parts(wire: Array, n: int) -> tuple[Array, Array]:
    head = 4 * -(-n // BLOCK)
    return wire[:head].view("<f4"), wire[head:].view("i1")

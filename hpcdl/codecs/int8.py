"""int8 with one float32 scale per block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arrays import HOST, Array
from .base import BLOCK, blocks
from .on_device import BlockKernels, block_kernels

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

    kernels = BlockKernels("int8")

    def nbytes(self, n: int) -> int:
        return n + 4 * -(-n // BLOCK)

    def encode(self, x: Array, wire: Array) -> None:
        if (kernels := block_kernels(self, x)) is not None:
            kernels.encode(x, wire)
            return
        for values, quotients in scale(x, wire):
            HOST.round_to_int8(quotients, values)

    def decode(self, wire: Array, out: Array) -> None:
        if (kernels := block_kernels(self, out)) is not None:
            kernels.decode(wire, out)
            return
        scales, values = _parts(wire, out.size)
        np.copyto(out, values)
        for elements, rows, width in blocks(out.size):
            part = out[elements].reshape(-1, width)
            np.multiply(part, scales[rows][:, None], out=part)


def scale(x: Array, wire: Array) -> Iterator[tuple[Array, Array]]:
    """Write the scales of `x` into `wire`; gives where rounded quotients x / s belong, and the quotients, part by part and in order."""
    scales, values = _parts(wire, x.size)
    for elements, rows, width in blocks(x.size):
        part = x[elements].reshape(-1, width)
        peaks = HOST.peaks(part)
        chosen = np.clip(peaks / np.float32(_LEVELS), np.float32(_SMALLEST), np.float32(_LARGEST))
        scales[rows] = np.where(np.isfinite(peaks), chosen, np.float32("nan"))
        quotients = part / chosen[:, None]
        if not np.isfinite(chosen).all():
            quotients[np.isnan(chosen)] = 0  # what a cast makes of NaN differs between processors
        yield values[elements], quotients.reshape(-1)


def _parts(wire: Array, n: int) -> tuple[Array, Array]:
    head = 4 * -(-n // BLOCK)
    return wire[:head].view("<f4"), wire[head:].view("i1")

"""One bit per element, and one scale per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arrays import Array
from .base import BLOCK, blocks
from .on_device import BlockKernels, block_kernels

__all__ = ["Sign"]


@dataclass(frozen=True)
class Sign:
    """Signs and the mean magnitude per block of 128: n/8 + 4n/128 bytes (each part rounded up to 4);
    |x - decoded|^2 = (1 - d) |x|^2 with d = |x|_1^2 / (n |x|_2^2) in each block: 0.64 for normally distributed elements.

    Wire: ceil(n / 128) float32 scales s, then n bits, lowest first, set for a negative element; an element is -s or s. A block that holds
    NaN or infinity decodes to NaN throughout. Biased: it converges with error feedback only (EF-signSGD: Karimireddy et al. 2019, alg. 1,
    with blocks for layers as in Zheng et al. 2019, sec. 4.2; the idea: Seide et al. 2014).
    """

    name = "sign"
    exact = False
    error = 1.0

    kernels: ClassVar = BlockKernels("sign")

    def nbytes(self, n: int) -> int:
        return 4 * -(-n // BLOCK) + 4 * -(-n // 32)

    def encode(self, x: Array, wire: Array) -> None:
        if (kernels := block_kernels(self, x)) is not None:
            kernels.encode(x, wire)
            return
        scales, packed = _parts(wire, x.size)
        for elements, rows, width in blocks(x.size):
            scales[rows] = _means(x[elements].reshape(-1, width))
        bits = np.packbits(np.signbit(x), bitorder="little")
        packed[: bits.size] = bits
        packed[bits.size :] = 0

    def decode(self, wire: Array, out: Array) -> None:
        if (kernels := block_kernels(self, out)) is not None:
            kernels.decode(wire, out)
            return
        scales, packed = _parts(wire, out.size)
        np.copyto(out, np.unpackbits(packed, bitorder="little")[: out.size])
        np.multiply(out, np.float32(-2), out=out)
        np.add(out, np.float32(1), out=out)
        for elements, rows, width in blocks(out.size):
            part = out[elements].reshape(-1, width)
            np.multiply(part, scales[rows][:, None], out=part)


def _means(rows: Array) -> Array:
    """Mean magnitude of each row, (m, k) float32 -> (m,), summed by halves in float64, so that every machine and device gets the same."""
    width = rows.shape[1]
    sums, left = abs(rows).astype("f8"), width
    while left > 1:
        half = -(-left // 2)
        sums[:, : left - half] += sums[:, half:left]
        left = half
    means = (sums[:, 0] / width).astype("f4")
    return np.where(np.isfinite(means), means, np.float32("nan"))  # one NaN everywhere: wires do not depend on where they were made


def _parts(wire: Array, n: int) -> tuple[Array, Array]:
    head = 4 * -(-n // BLOCK)
    return wire[:head].view("<f4"), wire[head:]

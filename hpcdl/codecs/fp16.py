"""float16 with one power-of-two exponent per block, so that 1e-30 and 1e30 survive."""

from __future__ import annotations

import numpy as np

from ..arrays import HOST, Array
from .base import BLOCK, blocks
from .on_device import BlockKernels, block_kernels

__all__ = ["FP16"]

_LOW, _HIGH = 2.0**-13, 2.0**15  # peaks in between need no scaling: the plain cast keeps the bound
_TOP = 15  # scaled peaks lie in [2^14, 2^15): a factor of two below float16's largest number


class FP16:
    """Scaled float16: 2n bytes and one int8 exponent per block of 128; error at most 2^-11 of the block's largest magnitude.

    Wire: n float16 values, then ceil(n / 128) exponents e; an element is value * 2^e. A block whose peak lies between 2^-13 and 2^15 (the
    usual gradient), is zero, or holds a NaN or infinity has e = 0 and is a plain cast; on the host, a few odd blocks do not slow the
    others down. The idea of a shared exponent is block floating
    point (Wilkinson 1963, sec. 1.2).
    """

    name = "fp16"
    exact = False
    error = 2.0**-11

    kernels = BlockKernels("fp16")

    def nbytes(self, n: int) -> int:
        return 2 * n + -(-n // BLOCK)

    def encode(self, x: Array, wire: Array) -> None:
        if (kernels := block_kernels(self, x)) is not None:
            kernels.encode(x, wire)
            return
        values, exponents = _parts(wire, x.size)
        for elements, rows, width in blocks(x.size):
            part = x[elements].reshape(-1, width)
            if HOST.all_between(part, _LOW, _HIGH):
                exponents[rows] = 0
                HOST.cast(x[elements], values[elements])
                continue
            chosen = _exponents(part)
            exponents[rows] = chosen
            if 2 * int((odd := chosen != 0).sum()) < len(chosen):
                HOST.cast(x[elements], values[elements])
                scaled = (part[odd] * _powers(-chosen[odd])[:, None]).reshape(-1)
                target = HOST.empty(scaled.size, "<f2")
                HOST.cast(scaled, target)
                values[elements].reshape(-1, width)[odd] = target.reshape(-1, width)
            else:
                scaled = part * _powers(-chosen)[:, None]
                HOST.cast(scaled.reshape(-1), values[elements])

    def decode(self, wire: Array, out: Array) -> None:
        if (kernels := block_kernels(self, out)) is not None:
            kernels.decode(wire, out)
            return
        values, exponents = _parts(wire, out.size)
        HOST.cast(values, out)
        if not exponents.any():
            return
        for elements, rows, width in blocks(out.size):
            part = out[elements].reshape(-1, width)
            np.multiply(part, _powers(exponents[rows])[:, None], out=part)


def _parts(wire: Array, n: int) -> tuple[Array, Array]:
    return wire[: 2 * n].view("<f2"), wire[2 * n :].view("i1")


def _exponents(rows: Array) -> Array:
    """The exponent of each row of (m, k) float32, as int8 (m,). Chosen from the peak alone, so that a GPU chooses the same."""
    peaks = HOST.peaks(rows)
    _, exponent = np.frexp(peaks)  # peak = f * 2^exponent, f in [0.5, 1)
    plain = ((peaks >= _LOW) & (peaks <= _HIGH)) | (peaks == 0) | ~np.isfinite(peaks)
    # -127 is enough for the smallest subnormal: it becomes 2^-22, which float16 still holds exactly.
    return np.where(plain, 0, np.maximum(exponent - _TOP, -127)).astype("i1")


def _powers(exponents: Array) -> Array:
    """2^e, exactly, as float32: (m,) from (m,)."""
    return np.ldexp(np.float32(1), exponents.astype("i4"))

"""bfloat16: the upper half of a float32, rounded to nearest, ties to even."""

from __future__ import annotations

from ..arrays import BFLOAT16, HOST, Array
from .on_device import BlockKernels, block_kernels

__all__ = ["BF16"]


class BF16:
    """bfloat16: 2n bytes; relative error at most 2^-8 per element over the whole range of float32 above 2^-126."""

    name = "bf16"
    exact = False
    error = 2.0**-8

    kernels = BlockKernels("bf16")

    def nbytes(self, n: int) -> int:
        return 2 * n

    def encode(self, x: Array, wire: Array) -> None:
        if (kernels := block_kernels(self, x)) is not None:
            kernels.encode(x, wire)
            return
        HOST.cast(x, wire.view(BFLOAT16))

    def decode(self, wire: Array, out: Array) -> None:
        if (kernels := block_kernels(self, out)) is not None:
            kernels.decode(wire, out)
            return
        HOST.cast(wire.view(BFLOAT16), out)

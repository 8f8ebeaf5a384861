"""int8 with stochastic rounding: no error on average."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..arrays import HOST, Array
from . import noise
from .int8 import Int8, scale
from .on_device import BlockKernels, block_kernels

__all__ = ["Int8Stochastic"]

_PLAIN = Int8()


@dataclass(frozen=True)
class Int8Stochastic:
    """Scaled int8, rounded up or down by chance: n bytes and one float32 scale per block of 128; error at most 1/127 of the block's peak.

    The wire is that of `int8`, but q is x / s rounded up with probability x / s - floor(x / s), which makes the error zero on average (to
    2^-17 of s): sums over many ranks and steps are not biased, even without error feedback (QSGD: Alistarh et al. 2017, sec. 3.1).

    The chance is a hash of (seed, operation, rank, element), so that a run can be repeated, and a GPU makes the same wires.
    """

    seed: int = 0
    step: int = 0  # number of the operation in its group
    rank: int = 0
    element: int = 0  # the first one's number

    exact = False
    error = 1 / 127 * (1 + 2.0**-16)

    @property
    def name(self) -> str:
        return f"int8-stochastic:seed={self.seed}" if self.seed else "int8-stochastic"

    def at(self, step: int, rank: int, element: int) -> Int8Stochastic:
        """The same codec in another place."""
        return replace(self, step=step, rank=rank, element=element)

    @property
    def kernels(self) -> BlockKernels:
        """Those of `int8`, which draw here."""
        return BlockKernels("int8", self._stream, self.element, drawn=True)

    @property
    def _stream(self) -> int:
        return noise.key(self.seed, self.step, self.rank)

    def nbytes(self, n: int) -> int:
        return _PLAIN.nbytes(n)

    def encode(self, x: Array, wire: Array) -> None:
        if (kernels := block_kernels(self, x)) is not None:
            kernels.encode(x, wire)
            return
        stream, element = self._stream, self.element
        for values, quotients in scale(x, wire):
            rounded = np.floor(quotients)
            with np.errstate(invalid="ignore"):  # infinity less infinity: no chance, and it stays infinite
                chances = np.subtract(quotients, rounded, out=quotients)
            rounded += noise.uniform(np, stream, element, chances.size) < chances
            HOST.round_to_int8(rounded, values)
            element += chances.size

    def decode(self, wire: Array, out: Array) -> None:
        _PLAIN.decode(wire, out)

"""The largest elements only, with their places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..arrays import HOST, Array, of
from ..errors import InvalidArgument
from . import topk_on_device as on_device

__all__ = ["TopK"]


@dataclass(frozen=True)
class TopK:
    """The k = max(1, ceil(ratio * n)) elements of largest magnitude: 8k bytes; |x - decoded|^2 <= (1 - k/n) |x|^2.

    Wire: k uint32 places, ascending, then k float32 values. Ties go to the lowest place. NaN and infinity are the largest of all, so they
    are sent. What is not sent must be kept and sent later (error feedback), or it is lost for good (Aji & Heafield 2017, sec. 3; Lin et
    al. 2018, sec. 3; convergence: Stich et al. 2018, thm. 2.4).
    """

    ratio: float = 0.01

    exact = False
    error = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InvalidArgument(f"topk: ratio must be more than 0 and at most 1, got {self.ratio}")

    @property
    def name(self) -> str:
        return f"topk:ratio={self.ratio:g}"

    def nbytes(self, n: int) -> int:
        return 8 * self._count(n)

    def encode(self, x: Array, wire: Array) -> None:
        places, values = self._parts(wire, x.size)
        if isinstance(x, np.ndarray):
            places[:] = HOST.largest(x, places.size)
            values[:] = x[places]
        else:
            on_device.select(of(x), x, places, values)

    def decode(self, wire: Array, out: Array) -> None:
        out[:] = 0
        places, values = self._parts(wire, out.size)
        if isinstance(out, np.ndarray):
            out[places] = values
        else:
            on_device.scatter(of(out), places, values, out, 0)

    def add(self, wire: Array, out: Array) -> None:
        """out += what `wire` holds, at a cost that goes with k; `out` may be float64."""
        self._change(wire, out, 1)

    def take_off(self, wire: Array, out: Array) -> None:
        """out -= what `wire` holds; exactly zero where float32 `out` is what was encoded."""
        self._change(wire, out, -1)

    def _change(self, wire: Array, out: Array, sign: int) -> None:
        places, values = self._parts(wire, out.size)
        if isinstance(out, np.ndarray) or out.itemsize != 4:
            out[places] = out[places] + values if sign > 0 else out[places] - values
        else:
            on_device.scatter(of(out), places, values, out, sign)

    def _count(self, n: int) -> int:
        return min(n, max(1, math.ceil(self.ratio * n)))

    def _parts(self, wire: Array, n: int) -> tuple[Array, Array]:
        head = 4 * self._count(n)
        return wire[:head].view("<u4"), wire[head:].view("<f4")

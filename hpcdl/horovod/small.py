"""Arrays that are so small that they need no operation of their own: they travel with the wish, or lie in shared memory.

With the wish: rank 0 reduces them, and sends the result with the order. Why: to send them is one message and one answer, which telling
what one is ready for takes anyway. An operation of all ranks after that would double the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ..arrays import BFLOAT16, HOST, Array, accumulator, is_floating, of
from ..collectives.ops import by_name
from .reduce import OPS, scale
from .wanted import Wanted

__all__ = ["Values", "dtype_named", "reduced"]

_MOST = 1 << 16  # bytes that rank 0 takes from all ranks together


class Values(NamedTuple):
    """One rank's arrays: the `given` are reduced into `outs`; then: gives the result, once that is done."""

    given: Sequence[Array]
    outs: Sequence[Array]
    then: Callable[[], Any] | None = None

    @property
    def on_host(self) -> bool:
        """Whether they can be read here."""
        return all(of(x) is HOST for x in (*self.given, *self.outs))

    def packed(self, wanted: Wanted, size: int) -> bytes:
        """Their bytes, which `size` ranks want to be reduced as `wanted` says; none where they do not travel so."""
        arrays = self.given
        nbytes = sum(x.nbytes for x in arrays)
        if nbytes * size > _MOST or wanted.op == "adasum" or wanted.codec != "none" or not self.on_host:
            return b""
        return arrays[0].tobytes() if len(arrays) == 1 else b"".join(x.tobytes() for x in arrays)

    def put(self, data: bytes) -> Any:
        """The result, from the bytes that `reduced` has made of all ranks'."""
        begin = 0
        for x in self.outs:
            x[...] = np.frombuffer(data, x.dtype, x.size, begin).reshape(x.shape)
            begin += x.nbytes
        return self.end()

    def read(self, wanted: Wanted, sides: Sequence[Sequence[Array]]) -> Any:
        """The result, from what all ranks have given: of each array, by rank."""
        with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN are results like any other
            for x, everyone in zip(self.outs, sides, strict=True):
                _reduce(wanted, everyone, x)
        return self.end()

    def end(self) -> Any:
        """The result, once `outs` hold it."""
        return None if self.then is None else self.then()


def reduced(wanted: Wanted, parts: Sequence[bytes]) -> bytes:
    """What `wanted` makes of the bytes of all ranks. b"" is a rank that takes part with zeros."""
    length = max(map(len, parts))
    parts = [part or bytes(length) for part in parts]
    outs, begin = [], 0
    for name, shape in wanted.arrays:
        dtype, n = dtype_named(name), math.prod(shape)
        sides = [np.frombuffer(part, dtype, n, begin) for part in parts]
        with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN are results like any other
            out = np.empty(n, dtype)
            _reduce(wanted, sides, out)
            outs.append(out.tobytes())
        begin += n * dtype.itemsize
    return b"".join(outs)


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype that a wish calls so."""
    return np.dtype(BFLOAT16 if name == "bfloat16" else name)


def _reduce(wanted: Wanted, sides: Sequence[Array], out: Array) -> None:
    dtype, op, (prescale, postscale) = out.dtype, wanted.op, wanted.scales
    if op == "average":
        postscale /= len(sides)
    if op in ("average", "sum") and is_floating(dtype):
        total = out if accumulator(dtype) == dtype else np.empty(out.shape, accumulator(dtype))
        total[...] = sides[0]
        for x in sides[1:]:
            total += x
        scale(total, prescale * postscale)
        if total is not out:
            out[...] = total
        return
    if prescale != 1 or op == "average":
        sides = [x.astype(np.int64 if op == "average" and dtype.itemsize < 4 else dtype) for x in sides]
        for x in sides:
            scale(x, prescale)
    total = reduce(getattr(np, by_name(OPS[op]).ufunc), sides)
    if postscale != 1:
        total = total.copy()
        scale(total, postscale)
    out[...] = total.astype(dtype, copy=False)

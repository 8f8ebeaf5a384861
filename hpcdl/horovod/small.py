"""Arrays that are so small that they travel with the wish: rank 0 reduces them, and sends the result with the order.

Why: to send them is one message and one answer, which telling what one is ready for takes anyway. An operation of all ranks after that
would double the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ..arrays import BFLOAT16, HOST, Array, accumulator, is_floating, of
from ..collectives.ops import by_name
from .reduce import OPS, scale
from .wanted import Wanted

__all__ = ["dtype_named", "packed", "put", "reduced"]

_MOST = 1 << 16  # bytes that rank 0 takes from all ranks together


def packed(wanted: Wanted, arrays: Sequence[Array], size: int) -> bytes:
    """The bytes of `arrays`, which `size` ranks want to be reduced as `wanted` says; none where they do not travel so."""
    nbytes = sum(x.nbytes for x in arrays)
    if nbytes * size > _MOST or wanted.op == "adasum" or wanted.codec != "none" or any(of(x) is not HOST for x in arrays):
        return b""
    return arrays[0].tobytes() if len(arrays) == 1 else b"".join(x.tobytes() for x in arrays)


def put(arrays: Sequence[Array], data: bytes) -> None:
    """Overwrite `arrays` with the bytes that `reduced` has made of all ranks'."""
    begin = 0
    for x in arrays:
        x[...] = np.frombuffer(data, x.dtype, x.size, begin).reshape(x.shape)
        begin += x.nbytes


def reduced(wanted: Wanted, parts: Sequence[bytes]) -> bytes:
    """What `wanted` makes of the bytes of all ranks. b"" is a rank that takes part with zeros."""
    length = max(map(len, parts))
    parts = [part or bytes(length) for part in parts]
    outs, begin = [], 0
    for name, shape in wanted.arrays:
        dtype, n = dtype_named(name), math.prod(shape)
        sides = [np.frombuffer(part, dtype, n, begin) for part in parts]
        with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN are results like any other
            outs.append(_reduced(wanted, sides).tobytes())
        begin += n * dtype.itemsize
    return b"".join(outs)


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype that a wish calls so."""
    return np.dtype(BFLOAT16 if name == "bfloat16" else name)


def _reduced(wanted: Wanted, sides: list[Any]) -> Any:
    dtype, op, (prescale, postscale) = sides[0].dtype, wanted.op, wanted.scales
    if op == "average":
        postscale /= len(sides)
    if op in ("average", "sum") and is_floating(dtype):
        total = sides[0].astype(accumulator(dtype))
        for x in sides[1:]:
            total += x
        scale(total, prescale * postscale)
        return total.astype(dtype, copy=False)
    if prescale != 1 or op == "average":
        sides = [x.astype(np.int64 if op == "average" and dtype.itemsize < 4 else dtype) for x in sides]
        for x in sides:
            scale(x, prescale)
    total = reduce(getattr(np, by_name(OPS[op]).ufunc), sides)
    if postscale != 1:
        total = total.copy()
        scale(total, postscale)
    return total.astype(dtype, copy=False)

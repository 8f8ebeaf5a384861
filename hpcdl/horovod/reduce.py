"""Reductions as Horovod defines them, on the collectives of this package: scaling, averages of integers, Adasum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..arrays import Array, is_floating, of
from ..collectives import calls
from ..collectives.calls import Constant
from ..collectives.group import Group
from ..collectives.operation import Operation
from ..collectives.ops import by_name
from ..collectives.reduce_into import reduce_scatter_into
from ..errors import InvalidArgument
from .adasum import adasum
from .errors import Refused
from .wanted import Wanted

__all__ = ["OPS", "check_op", "part_of", "reduce_in_place", "scale"]

#: Horovod's operations, and what they are here.
OPS = {"average": "sum", "sum": "sum", "adasum": "sum", "min": "min", "max": "max", "product": "product"}


def check_op(group: Group, op: str, dtype: np.dtype[Any]) -> None:
    """Raise InvalidArgument unless `op` is one of OPS and means something for `dtype` and for this number of ranks."""
    if op not in OPS:
        raise InvalidArgument(f"{group.place}: unknown op {op!r}; known: {', '.join(OPS)}")
    by_name(OPS[op]).check(dtype)
    size = group.transport.size
    if op == "adasum" and size & (size - 1):
        raise NotImplementedError(f"{group.place}: Running Adasum with non-power of 2 ranks is not supported yet; this set has {size}")
    if op == "adasum" and not is_floating(dtype):
        raise Refused(f"{group.place}: Adasum needs a floating dtype, got {dtype}")


def reduce_in_place(group: Group, x: Array, wanted: Wanted, given: Array | None = None) -> tuple[Operation, Callable[[], None]]:
    """Start to reduce `x` as `wanted` says; and what is left to do at the end. The same call on all ranks.

    given: an array like `x` whose values are reduced in place of those of `x`.
    """
    op, (prescale, postscale), codec = wanted.op, wanted.scales, wanted.codec
    if op == "average":
        postscale /= group.transport.size
    if op in ("average", "sum") and is_floating(x.dtype):
        factor = prescale * postscale
        if factor == 1:
            return calls.allreduce(group, x, "sum", codec, given=given), _nothing
        return calls.allreduce(group, x, "mean", codec, scale=Constant(factor), given=given), _nothing
    if given is not None:
        x[...] = given
    if op == "average" and x.dtype.itemsize < 4:  # whose sums do not fit, though their average does
        wide = x.astype(np.int64)
        operation, end = reduce_in_place(group, wide, wanted)

        def narrow() -> None:
            end()
            x[...] = wide.astype(x.dtype)

        return operation, narrow
    scale(x, prescale)
    operation = adasum(group, x) if op == "adasum" else calls.allreduce(group, x, OPS[op], codec)
    return operation, lambda: scale(x, postscale)


def part_of(group: Group, x: Array, begins: Sequence[int], wanted: Wanted) -> tuple[Operation, Callable[[], Any]]:
    """Start to reduce `x`, of which this rank wants rows begins[rank] to begins[rank+1]; and what gives them at the end.

    The codec is used where the ranks are not all of one node.
    """
    (prescale, postscale), rank = wanted.scales, group.transport.rank
    plain = wanted.op == "average" and is_floating(x.dtype) and prescale == postscale == 1
    if wanted.op == "average" and not plain:
        postscale /= group.transport.size
    if prescale != 1:
        x = x.copy()
        scale(x, prescale)
    row, flat = math.prod(x.shape[1:]), x.reshape(-1)
    out = of(x).xp.empty((begins[rank + 1] - begins[rank], *x.shape[1:]), x.dtype)
    parts = [flat[row * begin : row * end] for begin, end in pairwise(begins)]
    codec = wanted.codec if len(set(group.transport.nodes)) > 1 else None
    operation = reduce_scatter_into(group, parts, out.reshape(-1), "mean" if plain else "sum", codec)

    def end() -> Any:
        scale(out, postscale)
        return out

    return operation, end


def scale(x: Array, factor: float) -> None:
    """x *= factor; of integers the whole part, as a C compiler converts."""
    if factor == 1:
        return
    if is_floating(x.dtype):
        of(x).xp.multiply(x, x.dtype.type(factor), out=x)
    else:
        x[...] = (x * np.float64(factor)).astype(x.dtype)


def _nothing() -> None:
    """Nothing is left to do."""

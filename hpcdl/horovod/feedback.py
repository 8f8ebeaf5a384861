"""Error feedback: what a lossy codec has dropped of a tensor is added to it when it is next reduced."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arrays import Array, accumulator, of
from ..codecs import by_name as codec_by_name
from ..collectives.calls import Constant
from ..collectives.checks import check_codec
from ..collectives.group import Group
from ..collectives.operation import Operation
from ..collectives.ops import by_name as op_by_name
from ..errors import InvalidArgument
from ..reduction.bucket import Bucket, Layout, layout
from ..reduction.compressor import Compressor, How
from ..reduction.compressors import by_name, check
from ..reduction.elementwise import Elementwise
from .reduce import OPS
from .wanted import Wanted

__all__ = ["Dropped", "carries_over", "check_way", "reduce_carrying"]

_BUCKET = 4 << 20  # bytes


class Dropped:
    """What this rank has dropped of one tensor so far: `residual`, of its shape. Held by whoever reduces that tensor again and again.

    A reduction takes it, and puts back what is left. Two at a time do no harm: the second finds nothing, and what both put back adds up.
    """

    def __init__(self) -> None:
        self.residual: Array | None = None
        self.kept: Array | None = None  # what a compressor keeps from step to step

    def take(self, x: Array) -> Array:
        """What is to be added to `x`, flat: zeros at first, and again where `x` has another shape, dtype or device than the last."""
        found, self.residual = self.residual, None
        if found is None or not _alike(found, x.shape, accumulator(x.dtype), of(x)):
            found, self.kept = of(x).xp.zeros(x.shape, accumulator(x.dtype)), None
        return found.reshape(-1)

    def put(self, residual: Array, kept: Array | None) -> None:
        """What is left after a reduction."""
        other = self.residual
        if other is not None and _alike(other, residual.shape, residual.dtype, of(residual)):
            residual = residual + other
        self.residual, self.kept = residual, kept


def _alike(x: Array, shape: tuple[int, ...], dtype: Any, library: Any) -> bool:
    return x.shape == shape and x.dtype == dtype and of(x) is library


def carries_over(compression: Any, op: str) -> bool:
    """Whether what `compression` drops is to be carried over. op: average, sum, … .

    Warns where it should be and cannot: what is dropped of a minimum, say, makes no sense in another. Raises InvalidArgument where the
    codec cannot do without.
    """
    codec = getattr(compression, "codec", None)
    encodes = codec is not None and op != "adasum" and not by_name(codec).exact
    if not (encodes and getattr(compression, "error_feedback", False)):
        return False
    if op in ("average", "sum"):
        return True
    check(by_name(codec), op_by_name(OPS[op]), np.dtype("float32"), horovod=False)
    warnings.warn(f"what codec {codec!r} drops is lost: error feedback is for Average and Sum, not {op.capitalize()}", stacklevel=4)
    return False


def check_way(group: Group, codec: str, op: str, dtype: np.dtype[Any], feedback: bool) -> None:
    """Raise InvalidArgument where arrays of `dtype` cannot be reduced through `codec`, with or without error feedback."""
    if not feedback:
        check_codec(group, codec_by_name(codec), dtype)
        return
    compressor = by_name(codec)
    if op not in ("average", "sum") or compressor.exact:
        raise InvalidArgument(f"{group.place}: error feedback is for Average and Sum with a lossy codec, not {op} with {compressor.name!r}")
    if isinstance(compressor, Elementwise):
        check_codec(group, compressor.codec, dtype)
    check(compressor, op_by_name(OPS[op]), dtype, horovod=group.sums is not None)


def reduce_carrying(
    group: Group, arrays: Sequence[Array], wanted: Wanted, dropped: Sequence[Dropped] | None
) -> list[tuple[Operation, Callable[[], None]]]:
    """Start to reduce `arrays` in place through a codec or compressor; the operations, each with what is left to do at its end.

    dropped: of each array; None for a rank that takes part with zeros and holds nothing. The same call on all ranks.
    """
    compressor = by_name(wanted.codec)
    held = [Dropped() for _ in arrays] if dropped is None else dropped
    prescale, postscale = wanted.scales
    factor = prescale * postscale / (group.transport.size if wanted.op == "average" else 1)
    plans = layout([x.shape for x in arrays], [x.dtype for x in arrays], _BUCKET)
    return [_start(group, compressor, plan, arrays, held, factor, number) for number, plan in enumerate(plans)]


def _start(
    group: Group, compressor: Compressor, plan: Layout, arrays: Sequence[Array], held: Sequence[Dropped], factor: float, number: int
) -> tuple[Operation, Callable[[], None]]:
    members, first = frozenset(plan.offsets), arrays[next(iter(plan.offsets))]
    own = {i: held[i].take(arrays[i]) for i in members}
    kept = {i: last for i in members if (last := held[i].kept) is not None}
    together = len(members) > 1
    if together:
        xp = of(first).xp
        flat, residual = xp.zeros(plan.size, plan.dtype), xp.zeros(plan.size, accumulator(plan.dtype))
        for i in members:
            flat[plan.cut(i)], residual[plan.cut(i)] = arrays[i].reshape(-1), own[i]
    else:
        (i,) = members
        plan = Layout(plan.dtype, {i: 0}, first.size, plan.shapes)
        flat, residual = first.reshape(-1), own[i]
    bucket = Bucket(flat, residual, plan, members, kept=kept)
    op, scale = ("sum", None) if factor == 1 else ("mean", Constant(factor))
    step = group.started  # the same on all ranks, and another each time
    operation = compressor.reduce(bucket, group, How(op_by_name(op), "auto", None, scale, step, number))

    def end() -> None:
        for i in members:
            shape = arrays[i].shape
            if together:
                arrays[i][...] = flat[plan.cut(i)].reshape(shape)
                own[i][...] = residual[plan.cut(i)]
            held[i].put(own[i].reshape(shape), bucket.kept.get(i))

    return operation, end

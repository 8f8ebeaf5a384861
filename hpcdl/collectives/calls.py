"""Reductions, from a user's array to a running operation: working copies, weights, and the choice of the collective."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arrays import HOST, Array, accumulator, of
from ..codecs import Codec
from ..codecs import by_name as codec_by_name
from ..errors import InvalidArgument
from . import ring
from .checks import check_array, check_codec, check_residual
from .collective import by_name
from .execute import Body, execute
from .follow import follow
from .group import Group
from .layout import split_evenly
from .operation import After, Operation, Signature, all_finished
from .ops import Op
from .ops import by_name as op_by_name
from .recipe import Recipe, recipe_for
from .shared_memory import reads_once
from .task import Scale, Task

__all__ = ["Constant", "allreduce", "reduce_scatter", "task_for", "weight_sum"]


class Constant:
    """A scale that is known."""

    source = -1
    nbytes = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def done(self) -> bool:
        return True

    def cancel(self) -> None:
        pass


class InverseSum(After):
    """One over a sum that is still under way; 0 where the sum is 0, so that nobody's nothing is nothing."""

    @property
    def value(self) -> float:
        total = float(self.operation.result[0])
        return 1 / total if total else 0.0


def weight_sum(group: Group, weight: float) -> Scale:
    """Start to sum all ranks' weights; the scale is one over the sum."""
    if not (math.isfinite(weight) and weight >= 0):
        raise InvalidArgument(f"{group.place}: weight must be finite and not negative, got {weight}")
    return InverseSum(allreduce(group, np.array([weight], np.float64), "sum", collective="tree", name="weights"))


def allreduce(
    group: Group,
    x: Array,
    op: Op | str,
    codec: Codec | str | None = None,
    collective: str = "auto",
    weight: float | None = None,
    scale: Scale | None = None,
    residual: Array | None = None,
    name: str = "",
    after: Sequence[Operation] = (),
    given: Array | None = None,
    begin: Callable[[], None] | None = None,
) -> Operation:
    """Reduce `x` in place over the group. `scale` replaces the mean's own factor, where several arrays share one.

    residual: what was lost before and is added now, like `x` in its work dtype; takes what is lost this time. after: operations that must
    have finished before this one takes memory or sends anything. given: an array of the shape and dtype of `x`, beside it, whose values
    are reduced in place of those of `x`; it is read until the operation has finished, and stays as it was. begin: called when it begins.
    """
    feedback, weighted = residual is not None, weight is not None or scale is not None
    check_array(group, x, write=True)
    place, neighbours = group.buffers.find(x) if of(x) is HOST and accumulator(x.dtype) == x.dtype else ("", None)
    recipe = recipe_for(group, x, op, codec, collective, weighted, feedback, place, name)
    op, codec, work_dtype = recipe.op, recipe.codec, recipe.work_dtype
    if weight is not None and not op.averages:
        raise InvalidArgument(f"{group.place}: weight is for op='mean', not {op.name!r}")
    if residual is not None:
        check_residual(group, residual, x, op, codec, work_dtype)
    if op.averages and scale is None:
        scale = Constant(1 / group.transport.size) if weight is None else weight_sum(group, weight)

    def call(tag: int, header: Any) -> Body:
        yield from all_finished(after)
        if begin is not None:
            begin()
        library, pool = of(x), group.pool(of(x))
        flat = x.reshape(-1)
        work, elsewhere = flat, None
        if given is not None:
            board = group.buffers.board
            if board is not None and recipe.on_board and not place and weight is residual is None and reads_once(board, x.nbytes):
                elsewhere = given.reshape(-1)
            else:
                flat[...] = given.reshape(-1)
        if work_dtype != x.dtype:
            work = pool.take(x.size * work_dtype.itemsize).view(work_dtype)
            library.cast(flat, work)
        if weight == 0:
            work[:] = 0  # not a product: a rank without data may hold anything, NaN included
        elif weight is not None and weight != 1:
            library.xp.multiply(work, work.dtype.type(weight), out=work)
        if group.transport.size > 1:
            how = None if residual is None else residual.reshape(-1)
            task = task_for(group, recipe, work, tag, header, scale, how, neighbours, elsewhere)
            yield from by_name(recipe.collective).allreduce(task)
        elif scale is not None:
            library.xp.multiply(work, work.dtype.type(scale.value), out=work)
        if work is not flat:
            library.cast(work, flat)
            pool.give(work.view("u1"))
        return x

    return group.start(recipe.signature, follow(of(x), call))


def task_for(
    group: Group,
    recipe: Recipe,
    work: Array,
    tag: int,
    header: Array,
    scale: Scale | None = None,
    residual: Array | None = None,
    neighbours: Sequence[Array] | None = None,
    given: Array | None = None,
) -> Task:
    """What the collective of `recipe` works on: `work` is flat and of its work dtype."""
    library = of(work)
    pool, carrier, board = group.pool(library), group.carrier(library), group.buffers.board if library is HOST else None
    return Task(
        work,
        recipe.op,
        recipe.codec,
        carrier,
        pool,
        tag,
        header,
        residual,
        scale,
        given,
        board=board,
        neighbours=neighbours,
        segment=recipe.segment,
        links=group.devices.links,
        instead=recipe.instead,
        on_devices=recipe.on_devices,
        sums=group.sums,
        name=str(recipe.signature),
    )


def reduce_scatter(group: Group, x: Array, op: Op | str, codec: Codec | str | None = None) -> Operation:
    """A new array: rank r's is ``numpy.array_split(x, size)[r]`` of the reduced `x`, which stays as it was."""
    op, codec = op_by_name(op), codec_by_name(codec)
    dtype = check_array(group, x)
    op.check(dtype)
    check_codec(group, codec, dtype)
    if x.ndim == 0:
        raise InvalidArgument(f"{group.place}: reduce_scatter needs at least one dimension, got a scalar")
    signature = Signature("reduce_scatter", op.name, dtype, x.shape, codec.name)

    def call(tag: int, header: Any) -> Body:
        library, size, rank = of(x), group.transport.size, group.transport.rank
        begins = split_evenly(len(x), size)
        bounds = [math.prod(x.shape[1:]) * begin for begin in begins]
        work = library.xp.empty(x.size, accumulator(dtype))
        library.cast(x.reshape(-1), work)
        task = Task(work, op, codec, group.carrier(library), group.pool(library), tag, header, bounds=bounds)
        yield from execute(ring.REDUCE_SCATTER, task)
        mine = work[bounds[rank] : bounds[rank + 1]]
        if op.averages:
            library.xp.multiply(mine, mine.dtype.type(1 / size), out=mine)
        out = library.xp.empty((begins[rank + 1] - begins[rank], *x.shape[1:]), dtype)
        library.cast(mine, out.reshape(-1))
        return out

    return group.start(signature, follow(of(x), call))

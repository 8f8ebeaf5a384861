"""Reductions whose result only some ranks want: one rank all of it, or each rank its part, wherever the parts lie."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ..arrays import Array, of
from ..arrays import accumulator as accumulator_of
from ..codecs import Codec
from ..codecs import by_name as codec_by_name
from ..errors import InvalidArgument
from . import ring, tree
from .checks import check_array, check_codec
from .execute import Body, exchange, execute
from .follow import follow
from .group import Group
from .into import check_parts, check_root
from .layout import split_evenly
from .operation import Operation, Signature
from .ops import Op
from .ops import by_name as op_by_name
from .schedule import Schedule
from .task import Task

__all__ = ["reduce_scatter_into", "reduce_to"]

_TREE_BYTES = 1 << 16
_TO_ROOT = Schedule("tree", "reduce_scatter", tree.reduce, chunks=lambda size: 1)  # the one chunk to rank 0


def reduce_to(group: Group, x: Array, root: int, op: Op | str) -> Operation:
    """On rank `root`, reduce `x` in place over all ranks; elsewhere it stays as it was.

    Up to 64 KiB a tree: lg p steps of n elements. Beyond, a ring that leaves each rank a part, and one message from each to the root:
    p steps, n elements per rank, 2n(p-1)/p in at the root.
    """
    op = op_by_name(op)
    dtype = check_array(group, x, write=group.transport.rank == root)
    op.check(dtype)
    check_root(group, root)
    work_dtype = accumulator_of(dtype)
    small = x.size * work_dtype.itemsize <= _TREE_BYTES

    def call(tag: int, header: Any) -> Body:
        library, pool, rank, size = of(x), group.pool(of(x)), group.transport.rank, group.transport.size
        flat = x.reshape(-1)
        scratch = work_dtype != dtype or rank != root
        work = pool.take(x.size * work_dtype.itemsize).view(work_dtype) if scratch else flat
        if scratch:
            library.cast(flat, work)
        task = Task(work, op, codec_by_name(None), group.carrier(library), pool, tag, header, root=root)
        if small:
            yield from execute(_TO_ROOT, task)
        else:
            task.root, task.bounds = 0, split_evenly(x.size, size)
            yield from execute(ring.REDUCE_SCATTER, task)
            parts = {r: work[begin:end].view("u1") for r, (begin, end) in enumerate(zip(task.bounds, task.bounds[1:], strict=False))}
            last = Task(work.view("u1"), op, task.codec, task.transport, pool, tag, header, met=task.met)
            theirs = {r: part for r, part in parts.items() if r != rank}
            yield from exchange(last, {} if rank == root else {root: parts[rank]}, theirs if rank == root else {})
        if rank == root:
            if op.averages:
                library.xp.multiply(work, work_dtype.type(1 / size), out=work)
            if scratch:
                library.cast(work, flat)
        if scratch:
            pool.give(work.view("u1"))

    return group.start(Signature("reduce", op.name, dtype, x.shape, extra=f"root {root}"), follow(of(x), call))


def reduce_scatter_into(group: Group, parts: Sequence[Array], out: Array, op: Op | str, codec: Codec | str | None = None) -> Operation:
    """`out` = the reduction over all ranks of their parts[this rank]. `parts` stay as they are; they may differ in length.

    A ring: p-1 steps, n(p-1)/p elements per rank, which travel in `codec`; n elements of scratch memory. All arrays are flat, of one dtype.
    """
    op, codec, rank, size = op_by_name(op), codec_by_name(codec), group.transport.rank, group.transport.size
    check_parts(group, parts)
    dtype = check_array(group, out, write=True)
    op.check(dtype)
    check_codec(group, codec, dtype)
    lengths = [part.size for part in parts]
    if any(part.dtype != dtype for part in parts) or out.size != lengths[rank]:
        told = f"{[(str(part.dtype), part.size) for part in parts]} for {dtype} × {out.size}"
        raise InvalidArgument(f"{group.place}: parts must have the dtype of out, and parts[{rank}] its size; got {told}")
    work_dtype = accumulator_of(dtype)
    extra = "" if len(set(lengths)) == 1 else f"parts of {lengths} elements"
    bounds = [0, *accumulate(lengths)]

    def call(tag: int, header: Any) -> Body:
        library, pool = of(out), group.pool(of(out))
        work = pool.take(bounds[-1] * work_dtype.itemsize).view(work_dtype)
        for begin, part in zip(bounds, parts, strict=False):
            library.cast(part, work[begin : begin + part.size])
        task = Task(work, op, codec, group.carrier(library), pool, tag, header, bounds=bounds)
        yield from execute(ring.REDUCE_SCATTER, task)
        mine = work[bounds[rank] : bounds[rank + 1]]
        if op.averages:
            library.xp.multiply(mine, work_dtype.type(1 / size), out=mine)
        library.cast(mine, out)
        pool.give(work.view("u1"))

    return group.start(Signature("reduce_scatter", op.name, dtype, (bounds[-1],), codec.name, extra=extra), follow(of(out), call))

"""Collectives that move bytes and reduce nothing: any dtype, nothing is compressed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np

from ..arrays import Array, dtype_of, of
from ..errors import InvalidArgument
from . import ring, tree
from .checks import check_array
from .execute import Body, exchange, execute
from .follow import follow
from .group import Group
from .into import About, moving
from .layout import split_evenly
from .operation import Operation, Signature
from .task import Task

__all__ = ["all_gather", "all_to_all", "barrier", "broadcast", "buffer"]

_TREE_BROADCAST_BYTES = 1 << 16


def broadcast(group: Group, x: Array, root: int = 0, about: About | None = None) -> Operation:
    """Overwrite `x` with rank `root`'s. Any dtype but object. about: what `x` is, where it is the bytes of something else."""
    check_array(group, x, write=True, numbers=False)
    if not 0 <= root < group.transport.size:
        raise InvalidArgument(f"{group.place}: root must be 0 to {group.transport.size - 1}, got {root}")
    schedule = tree.BROADCAST if x.nbytes <= _TREE_BROADCAST_BYTES else ring.BROADCAST
    dtype, shape = about or (np.dtype(x.dtype), x.shape)
    signature = Signature("broadcast", dtype=dtype, shape=shape, collective=schedule.name, extra=f"root {root}")

    def call(tag: int, header: Any) -> Body:
        yield from execute(schedule, _moving(group, x, tag, header, root=root))
        return x

    return group.start(signature, follow(of(x), call))


def all_gather(group: Group, x: Array, signature: Signature | None = None) -> Operation:
    """A new array: all ranks' `x`, in rank order along axis 0. First dimensions may differ; a scalar counts as one row.

    signature: what the ranks agree on, where `x` is the rows of something else.
    """
    check_array(group, x, numbers=False)
    rows = x.reshape(1) if x.ndim == 0 else x
    signature = signature or Signature("allgather", dtype=np.dtype(x.dtype), shape=(None, *rows.shape[1:]) if x.ndim else ())

    def call(tag: int, header: Any) -> Body:
        library, size = of(x), group.transport.size
        counts = np.zeros(size, np.int64)
        counts[group.transport.rank] = len(rows)
        each = list(range(0, 8 * size + 1, 8))
        lengths = _moving(group, counts, tag, header, bounds=each)
        yield from execute(ring.ALL_GATHER, lengths)
        out = library.xp.empty((int(counts.sum()), *rows.shape[1:]), x.dtype)
        begins = [0, *(int(n) for n in np.cumsum(counts))]
        out[begins[group.transport.rank] : begins[group.transport.rank + 1]] = rows
        row_bytes = x.dtype.itemsize * math.prod(rows.shape[1:])
        task = _moving(group, out, tag, header, bounds=[row_bytes * begin for begin in begins])
        task.met = lengths.met
        yield from execute(ring.ALL_GATHER, task)
        return out

    return group.start(signature, follow(of(x), call))


def all_to_all(group: Group, x: Array) -> Operation:
    """A new array: part r of every rank's ``numpy.array_split(x, size)``, in rank order along axis 0, for rank r."""
    check_array(group, x, numbers=False)
    if x.ndim == 0:
        raise InvalidArgument(f"{group.place}: alltoall needs at least one dimension, got a scalar")
    signature = Signature("alltoall", dtype=np.dtype(x.dtype), shape=x.shape)

    def call(tag: int, header: Any) -> Body:
        library, size, rank = of(x), group.transport.size, group.transport.rank
        begins = split_evenly(len(x), size)
        mine = begins[rank + 1] - begins[rank]
        out = library.xp.empty((mine * size, *x.shape[1:]), x.dtype)
        row = x.dtype.itemsize * math.prod(x.shape[1:])
        source, target = x.reshape(-1).view("u1"), out.reshape(-1).view("u1")
        out[mine * rank : mine * (rank + 1)] = x[begins[rank] : begins[rank + 1]]
        task = _moving(group, out, tag, header)
        yield from exchange(
            task,
            {peer: source[row * begins[peer] : row * begins[peer + 1]] for peer in range(size) if peer != rank},
            {peer: target[row * mine * peer : row * mine * (peer + 1)] for peer in range(size) if peer != rank},
        )
        return out

    return group.start(signature, follow(of(x), call))


def barrier(group: Group, agreement: str = "", kind: str = "barrier") -> Operation:
    """Done once every rank of the group has started it, with the same `agreement`. 2 lg p messages of 16 bytes on the longest path."""

    def call(tag: int, header: Any) -> Body:
        return execute(tree.ALL_REDUCE, _moving(group, np.empty(0, np.uint8), tag, header))

    return group.start(Signature(kind, extra=agreement), call)


def buffer(group: Group, shape: Any, dtype: Any, agreement: str = "") -> Array:
    """An array of zeros in memory that the ranks of a node share where they can. Blocks until every rank has asked for the same.

    The ranks agree first, through the progress loop, so that the blocking call into MPI which follows cannot hang.
    """
    try:
        kind = dtype_of(np.dtype(dtype))
        sizes = tuple(map(index, shape)) if isinstance(shape, Iterable) else (index(shape),)
        nbytes = math.prod(sizes) * kind.itemsize
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{group.place}: a buffer needs whole numbers and a dtype for numbers, got {shape!r}, {dtype!r}") from error
    if min(sizes, default=0) < 0 or nbytes >= 1 << 62:
        raise InvalidArgument(f"{group.place}: a buffer of shape {sizes} cannot be")
    barrier(group, f"{kind} of shape {sizes}{agreement}", kind="buffer").wait()
    with group.engine.locked():
        flat: Array = group.buffers.allocate(nbytes).view(kind)
    return flat.reshape(sizes)


def _moving(group: Group, x: Array, tag: int, header: Any, root: int = 0, bounds: list[int] | None = None) -> Task:
    """A task over the bytes of `x`; nothing in it is reduced."""
    return moving(group, x.reshape(-1).view("u1"), tag, header, bounds, root)

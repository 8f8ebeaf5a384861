"""All-gather, broadcast and all-to-all of tensors, with derivatives; join and barrier. Arguments: see `reductions`.

Derivatives are Horovod's, which are for losses that are averaged over the ranks. root_rank is a rank of the job, also where a process set
is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ...arrays import Array
from ...errors import InvalidArgument
from ..arguments import place_of
from ..basics import named, rank
from ..process_sets import ProcessSet, global_process_set
from ..request import Request
from .bridge import name_of, operate, run, tensor_of, within
from .dense import mean

__all__ = ["allgather", "alltoall", "barrier", "broadcast", "grouped_allgather", "join"]


def allgather(tensor: Any, name: str | None = None, ignore_name_scope: bool = False, process_set: ProcessSet = global_process_set) -> Any:
    """All ranks' `tensor` along dimension 0, in rank order; first dimensions may differ."""
    return _gathered([tensor_of(tensor)], name, ignore_name_scope, process_set, grouped=False)[0]


def grouped_allgather(
    tensors: Sequence[Any], name: str | None = None, ignore_name_scope: bool = False, process_set: ProcessSet = global_process_set
) -> list[Any]:
    """The same for several tensors, all together."""
    return _gathered([tensor_of(x) for x in tensors], name, ignore_name_scope, process_set, grouped=True)


def broadcast(
    tensor: Any,
    root_rank: int,
    name: str | None = None,
    ignore_name_scope: bool = False,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """A new tensor: rank `root_rank`'s `tensor`."""
    place, there = place_of(root_rank, process_set), named(process_set)

    @tf.custom_gradient
    def sent(x: Any) -> Any:
        told = name_of("Broadcast", [x], name, ignore_name_scope)
        (out,) = operate(lambda a: there.broadcast(a, place, told, lambda: [a]), [x], [x.dtype], "HorovodBroadcast", process_set)
        out.set_shape(x.shape)

        def back(upstream: Any) -> Any:
            told = mean(upstream, process_set)
            return told if rank() == root_rank else tf.zeros_like(told)

        return out, back

    return sent(tensor_of(tensor))


def alltoall(
    tensor: Any,
    splits: Any = None,
    name: str | None = None,
    ignore_name_scope: bool = False,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """What all ranks send to this one, in rank order: the next splits[r] rows of each rank's `tensor` go to rank r.

    Without splits the same number to each; with them a pair: the tensor, and the numbers of rows from each rank (int32).
    """
    there = named(process_set)
    numbers = tf.zeros([0], tf.int32) if splits is None else tensor_of(splits)
    if not numbers.dtype.is_integer:
        raise InvalidArgument(f"alltoall expects splits to contain 32-bit integer elements, got {numbers.dtype.name}")

    @tf.custom_gradient
    def exchanged(x: Any) -> Any:
        told = name_of("Alltoall", [x], name, ignore_name_scope)

        def begin(array: Array, sending: Array) -> Request:
            rows = None if splits is None else sending.tolist()
            return there.alltoall(array, rows, told, lambda out, received: [out, np.array(received, np.int32)])

        out, received = operate(begin, [x, numbers], [x.dtype, tf.int32], "HorovodAlltoall", process_set)
        out.set_shape([None, *x.shape[1:]])
        received.set_shape([there.size])

        def back(upstream: Any, _: Any) -> Any:
            home, _ = alltoall(upstream, received, process_set=process_set)
            left_out = tf.shape(x)[:1] - tf.shape(home)[:1]  # rows that the splits did not name
            return tf.concat([home, tf.zeros(tf.concat([left_out, tf.shape(x)[1:]], 0), home.dtype)], 0)

        return (out, received), back

    out, received = exchanged(tensor_of(tensor))
    return out if splits is None else (out, received)


def join() -> Any:
    """This rank has no more data: until all ranks have joined, zeros stand for it in the all-reduces of the others, averages included.

    The rank that joined last, as a tensor.
    """
    (last,) = run(lambda: [np.int32(within(global_process_set, named().join))], [], [tf.int32], "HorovodJoin")
    last.set_shape([])
    return last


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Return once all ranks have come here. In a graph: what comes after it runs then."""

    def work() -> list[Any]:
        within(process_set, named(process_set).barrier)
        return [np.int32(0)]

    run(work, [], [tf.int32], "HorovodBarrier")


def _gathered(tensors: Sequence[Any], name: str | None, ignore_name_scope: bool, process_set: ProcessSet, grouped: bool) -> list[Any]:
    kind, there = "GroupedAllgather" if grouped else "Allgather", named(process_set)

    @tf.custom_gradient
    def gathered(*inputs: Any) -> Any:
        told = name_of(kind, inputs, name, ignore_name_scope)
        outs = operate(
            lambda *arrays: there.allgather(arrays, told, grouped), inputs, [x.dtype for x in inputs], f"Horovod{kind}", process_set
        )
        for out, x in zip(outs, inputs, strict=True):
            out.set_shape([None, *x.shape[1:]])

        def back(*upstream: Any) -> list[Any]:
            rows = tf.stack([tf.shape(x)[0] for x in inputs])
            everyone = allgather(rows[None], process_set=process_set)
            before = tf.reduce_sum(everyone[: there.world.rank], 0)
            return [mean(g, process_set)[before[i] : before[i] + rows[i]] for i, g in enumerate(upstream)]

        return outs, back

    return list(gathered(*tensors))

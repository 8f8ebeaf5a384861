"""All-reduce of dense tensors: the one operation that the others' derivatives are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from ...arrays import Array
from ..basics import Average, named, op_name
from ..feedback import Dropped
from ..process_sets import ProcessSet, global_process_set
from ..request import Request
from .bridge import name_of, operate, tensor_of

__all__ = ["How", "begin_allreduce", "mean", "reduced"]


class How(NamedTuple):
    """What is to be done with tensors."""

    op: int = Average
    prescale: float = 1.0
    postscale: float = 1.0
    process_set: ProcessSet = global_process_set
    codec: str = "none"
    grouped: bool = False
    ignore_name_scope: bool = False


def begin_allreduce(arrays: Sequence[Array], name: str, how: How, dropped: Sequence[Dropped] | None = None) -> Request:
    """Start to reduce `arrays` in place; they are the result. dropped: of each before, where there is error feedback."""
    there, scales = named(how.process_set), (how.prescale, how.postscale)
    return there.allreduce(arrays, name, op_name(how.op), *scales, how.codec, how.grouped, lambda: list(arrays), dropped=dropped)


def reduced(tensors: Sequence[Any], name: str | None, how: How) -> list[Any]:
    """`tensors` reduced over all ranks, as one operation; its derivative is the same operation."""
    kind = "GroupedAllreduce" if how.grouped else "Allreduce"

    @tf.custom_gradient
    def forward(*inputs: Any) -> Any:
        told = name_of(kind, inputs, name, how.ignore_name_scope)
        outs = operate(
            lambda *arrays: begin_allreduce(arrays, told, how), inputs, [x.dtype for x in inputs], f"Horovod{kind}", how.process_set
        )
        for out, x in zip(outs, inputs, strict=True):
            out.set_shape(x.shape)
        return outs, lambda *upstream: reduced([tensor_of(x) for x in upstream], None, how)

    return list(forward(*tensors))


def mean(tensor: Any, process_set: ProcessSet) -> Any:
    """The mean of `tensor` over all ranks."""
    return reduced([tensor_of(tensor)], None, How(process_set=process_set))[0]

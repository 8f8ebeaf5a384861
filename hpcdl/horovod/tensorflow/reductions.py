"""All-reduce and reduce-scatter of tensors, with derivatives.

Arguments, common to all: `name` matches the calls of all ranks (without one, see `bridge.name_of`); op: Average, Sum, Min, Max, Product,
Adasum; prescale_factor and postscale_factor multiply before and after the reduction; process_set: the ranks that take part; the devices
are Horovod's and do nothing here. Raises HorovodInternalError, on every rank the same, where ranks disagree (in a graph: TensorFlow's
UnknownError with its text); InvalidArgument (a ValueError) for a tensor or an op that cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ...arrays import Array
from ..arguments import op_of
from ..basics import Adasum, Average, Sum, named, op_name
from ..compressors import codec_of
from ..process_sets import ProcessSet, global_process_set
from ..request import Request
from .bridge import name_of, operate, tensor_of
from .compression import Compression
from .dense import How, reduced
from .movement import allgather, grouped_allgather

__all__ = ["allreduce", "check_slices", "grouped_allreduce", "grouped_reducescatter", "reducescatter", "scaled_slices"]


def allreduce(
    tensor: Any,
    average: bool | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
) -> Any:
    """`tensor` reduced over all ranks; of an IndexedSlices the slices of all ranks, for Average divided by their number."""
    how = How(op_of(op, average), prescale_factor, postscale_factor, process_set, ignore_name_scope=ignore_name_scope)
    if isinstance(tensor, tf.IndexedSlices):
        return _slices([tensor], how)[0]
    return _dense([tensor], name, compression, how)[0]


def grouped_allreduce(
    tensors: Sequence[Any],
    average: bool | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
    name: str | None = None,
) -> list[Any]:
    """The same for several tensors, all together; any of them may be an IndexedSlices."""
    how = How(op_of(op, average), prescale_factor, postscale_factor, process_set, ignore_name_scope=ignore_name_scope, grouped=True)
    found = list(tensors)
    sparse = [i for i, x in enumerate(found) if isinstance(x, tf.IndexedSlices)]
    dense = [i for i in range(len(found)) if i not in sparse]
    outs = _slices([found[i] for i in sparse], how) if sparse else []
    outs += _dense([found[i] for i in dense], name, compression, how) if dense else []
    for i, out in zip([*sparse, *dense], outs, strict=True):
        found[i] = out
    return found


def reducescatter(
    tensor: Any,
    device_dense: str = "",
    compression: Any = Compression.none,
    op: int = Average,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
    ignore_name_scope: bool = False,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Any:
    """This rank's rows of the reduced `tensor`."""
    how = How(op, prescale_factor, postscale_factor, process_set, ignore_name_scope=ignore_name_scope)
    return _scatter([tensor], name, compression, how)[0]


def grouped_reducescatter(
    tensors: Sequence[Any],
    device_dense: str = "",
    compression: Any = Compression.none,
    op: int = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> list[Any]:
    """The same for several tensors, all together."""
    how = How(op, prescale_factor, postscale_factor, process_set, grouped=True)
    return _scatter(tensors, None, compression, how) if tensors else []


def scaled_slices(values: Any, indices: Any, like: Any, how: How) -> Any:
    """The gathered slices of a tensor as an IndexedSlices, for an average divided by the number of ranks."""
    ranks = tf.cast(named(how.process_set).size, values.dtype)
    return tf.IndexedSlices(values / ranks if how.op == Average else values, indices, dense_shape=like.dense_shape)


def check_slices(how: How) -> None:
    """Raise NotImplementedError for what cannot be done with slices."""
    if how.op == Adasum:
        raise NotImplementedError(
            "The Adasum reduction does not currently support sparse tensors. As a workaround please pass sparse_as_dense=True to "
            "DistributedOptimizer"
        )
    if how.op not in (Sum, Average):
        raise NotImplementedError("Only Sum and Average ops are supported with tf.IndexedSlices")
    if how.prescale * how.postscale != 1.0:
        raise NotImplementedError("Pre/postscale_factor are not supported with tf.IndexedSlices")


def _slices(slices: Sequence[Any], how: How) -> list[Any]:
    check_slices(how)
    gathered: Any = []
    for parts in ([x.values for x in slices], [x.indices for x in slices]):
        if how.grouped:
            gathered.append(grouped_allgather(parts, None, how.ignore_name_scope, how.process_set))
        else:
            gathered.append([allgather(x, None, how.ignore_name_scope, how.process_set) for x in parts])
    return [scaled_slices(values, indices, x, how) for values, indices, x in zip(*gathered, slices, strict=True)]


def _dense(tensors: Sequence[Any], name: str | None, compression: Any, how: How) -> list[Any]:
    if how.op == Adasum and how.process_set.process_set_id != 0:
        raise NotImplementedError("Adasum does not support non-global process sets yet.")
    found = [tensor_of(x) for x in tensors]
    codec = codec_of(compression, all(x.dtype.is_floating for x in found))
    pairs = [(x, None) if codec is not None else compression.compress(x) for x in found]
    outs = reduced([x for x, _ in pairs], name, how._replace(codec=codec or "none"))
    return outs if codec is not None else [compression.decompress(out, context) for out, (_, context) in zip(outs, pairs, strict=True)]


def _scatter(tensors: Sequence[Any], name: str | None, compression: Any, how: How) -> list[Any]:
    given = [tensor_of(x) for x in tensors]
    codec = codec_of(compression, all(x.dtype.is_floating for x in given))
    pairs = [(x, None) if codec is not None else compression.compress(x) for x in given]
    kind = "GroupedReducescatter" if how.grouped else "Reducescatter"

    @tf.custom_gradient
    def scattered(*inputs: Any) -> Any:
        told, there = name_of(kind, inputs, name, how.ignore_name_scope), named(how.process_set)

        def begin(*arrays: Array) -> Request:
            return there.reducescatter(arrays, told, op_name(how.op), how.prescale, how.postscale, codec or "none", how.grouped)

        outs = operate(begin, inputs, [x.dtype for x in inputs], f"Horovod{kind}", how.process_set)
        for out, x in zip(outs, inputs, strict=True):
            out.set_shape([None, *x.shape[1:]])
        factor = how.prescale * how.postscale * (there.size if how.op == Sum else 1)

        def back(*upstream: Any) -> list[Any]:
            return [allgather(tensor_of(x) * tf.cast(factor, x.dtype), process_set=how.process_set) for x in upstream]

        return outs, back

    outs = list(scattered(*(x for x, _ in pairs)))
    return outs if codec is not None else [compression.decompress(out, context) for out, (_, context) in zip(outs, pairs, strict=True)]

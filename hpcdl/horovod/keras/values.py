"""Collectives of values (numbers, arrays, tensors), at once: results are tensors of Keras's backend. Not for compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ...arrays import Array
from ...errors import InvalidArgument
from ..arguments import op_of, place_of, waiting
from ..basics import Average, named, op_name
from ..compressors import codec_of
from ..handles import register, synchronize
from ..process_sets import global_process_set
from ..request import Request
from .compression import Compression

__all__ = ["allgather", "allreduce", "broadcast", "broadcast_global_variables", "reducescatter"]


def allreduce(
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: int | None = None,
    compression: Any = Compression.none,
) -> Any:
    """`value` reduced over all ranks. Arguments: see `hpcdl.horovod.torch.reductions`."""
    told = op_name(op_of(op, average))
    context = None
    codec = codec_of(compression, np.issubdtype(np.asarray(value).dtype, np.floating))
    if codec is None:
        value, context = compression.compress(keras.ops.convert_to_tensor(value))

    def begin(x: Array) -> Request:
        return named().allreduce([x], name or "", told, prescale_factor, postscale_factor, codec or "none", then=lambda: x)

    out = _done(begin, value)
    return out if codec is not None else compression.decompress(out, context)


def allgather(value: Any, name: str | None = None) -> Any:
    """All ranks' `value` along dimension 0, in rank order; first dimensions may differ."""
    return _done(lambda x: named().allgather([x], name or "", then=lambda outs: outs[0]), value)


def broadcast(value: Any, root_rank: int, name: str | None = None) -> Any:
    """Rank `root_rank`'s `value`."""
    place = place_of(root_rank, global_process_set)
    return _done(lambda x: named().broadcast(x, place, name or "", lambda: x), value)


def reducescatter(value: Any, name: str | None = None, op: int = Average) -> Any:
    """This rank's rows of the reduced `value`."""
    return _done(lambda x: named().reducescatter([x], name or "", op_name(op), then=lambda outs: outs[0]), value)


def broadcast_global_variables(root_rank: int) -> None:
    """Of TensorFlow 1. Raises RuntimeError: Keras 3 has no global variables."""
    raise RuntimeError(
        "hvd.broadcast_global_variables() does not support eager execution, and Keras 3 keeps no list of all variables. "
        f"Please use the callback `BroadcastGlobalVariablesCallback({root_rank})` in `fit`, or "
        "`horovod.tensorflow.broadcast_variables(<model/optimizer variables>)`."
    )


def _done(begin: Callable[[Array], Request], value: Any) -> Any:
    """The result of the operation that `begin` starts with a copy of `value`."""
    tensor = keras.ops.convert_to_tensor(value)
    try:
        array = np.array(keras.ops.convert_to_numpy(tensor))
    except Exception as error:  # each backend has its own
        raise InvalidArgument(
            f"hvd operations of Keras take values, not what is being compiled ({type(error).__name__}); in tf.function use "
            "horovod.tensorflow"
        ) from error
    with waiting(global_process_set):
        return keras.ops.convert_to_tensor(synchronize(register(begin(array))))

"""Horovod's TensorFlow interface: `import hpcdl.horovod.tensorflow as hvd` in place of `import horovod.tensorflow as hvd`.

Eagerly, in `tf.function` and in graphs of TensorFlow 1; not inside what XLA compiles. For TensorFlow 2.21 with Keras 3.
"""

from __future__ import annotations

from .. import shared
from ..basics import Max, Min, Product, init, is_homogeneous, shutdown
from ..errors import HorovodInternalError
from ..shared import *  # noqa: F403 - all that is in its __all__
from . import elastic
from .compression import Compression
from .movement import allgather, alltoall, barrier, broadcast, grouped_allgather, join
from .optimizer import DistributedOptimizer
from .queries import local_rank_op, local_size_op, process_set_included_op, rank_op, size_op
from .reductions import allreduce, grouped_allreduce, grouped_reducescatter, reducescatter
from .sync_batch_norm import SyncBatchNormalization
from .tape import DistributedGradientTape, PartialDistributedGradientTape
from .variables import (
    BroadcastGlobalVariablesHook,
    allgather_object,
    broadcast_,
    broadcast_global_variables,
    broadcast_object,
    broadcast_object_fn,
    broadcast_variables,
)

__all__ = [
    "BroadcastGlobalVariablesHook",
    "Compression",
    "DistributedGradientTape",
    "DistributedOptimizer",
    "HorovodInternalError",
    "Max",
    "Min",
    "PartialDistributedGradientTape",
    "Product",
    "SyncBatchNormalization",
    "allgather",
    "allgather_object",
    "allreduce",
    "alltoall",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_global_variables",
    "broadcast_object",
    "broadcast_object_fn",
    "broadcast_variables",
    "elastic",
    "grouped_allgather",
    "grouped_allreduce",
    "grouped_reducescatter",
    "init",
    "is_homogeneous",
    "join",
    "local_rank_op",
    "local_size_op",
    "process_set_included_op",
    "rank_op",
    "reducescatter",
    "shutdown",
    "size_op",
]
__all__ += shared.__all__

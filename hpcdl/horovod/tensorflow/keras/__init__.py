"""Horovod's interface for `tf.keras`, which is Keras 3 today: that of `hpcdl.horovod.keras`."""

from __future__ import annotations

from ... import shared
from ...keras import (
    Compression,
    DistributedOptimizer,
    PartialDistributedOptimizer,
    allgather,
    allreduce,
    broadcast,
    broadcast_global_variables,
    init,
    load_model,
    reducescatter,
    shutdown,
)
from ...shared import *  # noqa: F403 - all that is in its __all__
from . import callbacks, elastic

__all__ = [
    "Compression",
    "DistributedOptimizer",
    "PartialDistributedOptimizer",
    "allgather",
    "allreduce",
    "broadcast",
    "broadcast_global_variables",
    "callbacks",
    "elastic",
    "init",
    "load_model",
    "reducescatter",
    "shutdown",
]
__all__ += shared.__all__

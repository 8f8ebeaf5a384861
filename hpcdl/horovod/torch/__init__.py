"""Horovod's PyTorch interface: `import hpcdl.horovod.torch as hvd` in place of `import horovod.torch as hvd`."""

from __future__ import annotations

from typing import Any

from .. import basics as _basics
from .. import shared
from ..basics import Max, Min, Product, init, is_homogeneous
from ..errors import HorovodInternalError
from ..handles import forget_all, poll
from ..objects import broadcast_object
from ..shared import *  # noqa: F403 - all that is in its __all__
from . import elastic
from .compression import Compression
from .functions import (
    allgather,
    allreduce,
    allreduce_,
    alltoall,
    broadcast,
    grouped_allgather,
    grouped_allreduce,
    grouped_allreduce_,
    grouped_reducescatter,
    reducescatter,
)
from .memory import synchronize
from .movement import (
    allgather_async,
    alltoall_async,
    barrier,
    broadcast_,
    broadcast_async,
    broadcast_async_,
    grouped_allgather_async,
    join,
)
from .optimizer import DistributedOptimizer
from .reductions import (
    allreduce_async,
    allreduce_async_,
    grouped_allreduce_async,
    grouped_allreduce_async_,
    grouped_reducescatter_async,
    reducescatter_async,
    sparse_allreduce_async,
)
from .state import allgather_object, broadcast_optimizer_state, broadcast_parameters
from .sync_batch_norm import SyncBatchNorm

__all__ = [
    "Compression",
    "DistributedOptimizer",
    "HorovodInternalError",
    "Max",
    "Min",
    "Product",
    "SyncBatchNorm",
    "allgather",
    "allgather_async",
    "allgather_object",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "alltoall",
    "alltoall_async",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_async",
    "broadcast_async_",
    "broadcast_object",
    "broadcast_optimizer_state",
    "broadcast_parameters",
    "elastic",
    "grouped_allgather",
    "grouped_allgather_async",
    "grouped_allreduce",
    "grouped_allreduce_",
    "grouped_allreduce_async",
    "grouped_allreduce_async_",
    "grouped_reducescatter",
    "grouped_reducescatter_async",
    "init",
    "is_homogeneous",
    "join",
    "poll",
    "reducescatter",
    "reducescatter_async",
    "shutdown",
    "sparse_allreduce_async",
    "synchronize",
]
__all__ += shared.__all__


def shutdown(*args: Any, **kwargs: Any) -> None:
    """End; `init` may begin anew. Waits until all ranks have come to it."""
    forget_all()
    _basics.shutdown()

"""PyTorch over MPI: `DistributedDataParallel` for the plain training script, and a backend for `torch.distributed`."""

from __future__ import annotations

from . import needs, saved  # noqa: F401
from .backend.barrier import monitored_barrier
from .backend.hooks import comm_hook
from .backend.registration import init_process_group, register
from .ddp import DistributedDataParallel, Report
from .functions import (
    allgather,
    allreduce,
    allreduce_,
    allreduce_async,
    allreduce_async_,
    alltoall,
    barrier,
    broadcast,
    broadcast_,
    reduce_scatter,
)
from .loader import Loader, loader
from .objects import allgather_object, broadcast_object
from .sharded import ShardedOptimizer, optimizer
from .sharded_state import ShardedState, sharded
from .start import default_world, init
from .sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm
from .tensors import as_array, as_tensor

DDP = DistributedDataParallel

__all__ = [
    "DDP",
    "DistributedDataParallel",
    "Loader",
    "Report",
    "ShardedOptimizer",
    "ShardedState",
    "SyncBatchNorm",
    "allgather",
    "allgather_object",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "alltoall",
    "as_array",
    "as_tensor",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_object",
    "comm_hook",
    "convert_sync_batchnorm",
    "default_world",
    "init",
    "init_process_group",
    "loader",
    "monitored_barrier",
    "optimizer",
    "reduce_scatter",
    "sharded",
]

register()


def __dir__() -> list[str]:
    """The public names, without the files."""
    return __all__

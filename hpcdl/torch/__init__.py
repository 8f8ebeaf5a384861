"""PyTorch over MPI: `DistributedDataParallel` for the plain training script, and a backend for `torch.distributed`."""

from __future__ import annotations

from .ddp import DistributedDataParallel, Report
from .loader import Loader, loader
from .sharded import ShardedOptimizer, optimizer
from .start import default_world, init
from .tensors import as_array, as_tensor

DDP = DistributedDataParallel

__all__ = [
    "DDP",
    "DistributedDataParallel",
    "Loader",
    "Report",
    "ShardedOptimizer",
    "as_array",
    "as_tensor",
    "default_world",
    "init",
    "loader",
    "optimizer",
]

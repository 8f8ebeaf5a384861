"""Keras 3 on TensorFlow, JAX or PyTorch over MPI: one code for all three, in `fit` and in loops of one's own."""

from __future__ import annotations

from .attach import attach
from .callbacks import BroadcastVariables
from .optimizer import DistributedOptimizer
from .shard import shard
from .start import default_world, init, local_rank, local_size, rank, size

__all__ = [
    "BroadcastVariables",
    "DistributedOptimizer",
    "attach",
    "default_world",
    "init",
    "local_rank",
    "local_size",
    "rank",
    "shard",
    "size",
]

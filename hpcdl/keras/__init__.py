"""Keras 3 on TensorFlow, JAX or PyTorch over MPI: one code for all three, in `fit` and in loops of one's own."""

from __future__ import annotations

from .attach import attach
from .backup import BackupAndRestore
from .callbacks import AverageMetrics, BroadcastVariables, EarlyStopping, OnRank0, TerminateOnNaN
from .optimizer import DistributedOptimizer
from .rates import LearningRateSchedule, LearningRateWarmup
from .shard import shard
from .start import default_world, init, local_rank, local_size, rank, size

__all__ = [
    "AverageMetrics",
    "BackupAndRestore",
    "BroadcastVariables",
    "DistributedOptimizer",
    "EarlyStopping",
    "LearningRateSchedule",
    "LearningRateWarmup",
    "OnRank0",
    "TerminateOnNaN",
    "attach",
    "default_world",
    "init",
    "local_rank",
    "local_size",
    "rank",
    "shard",
    "size",
]

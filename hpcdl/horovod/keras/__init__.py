"""Horovod's Keras interface: `import hpcdl.horovod.keras as hvd` in place of `import horovod.keras as hvd`, on any backend of Keras 3."""

from __future__ import annotations

from typing import Any

from ...keras.start import settle
from .. import basics as _basics
from .. import shared
from ..basics import named, shutdown
from ..shared import *  # noqa: F403 - all that is in its __all__
from . import callbacks, elastic
from .compression import Compression
from .models import load_model
from .optimizer import DistributedOptimizer, PartialDistributedOptimizer
from .values import allgather, allreduce, broadcast, broadcast_global_variables, reducescatter

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


def init(comm: Any = None, process_sets: Any = None) -> None:
    """Begin; and this process takes its device and its share of the cores, as with `hpcdl.keras.init`. See `hpcdl.horovod.basics.init`."""
    _basics.init(comm, process_sets)
    settle(named().world)

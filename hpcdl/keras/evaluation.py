"""`evaluate` and `predict` of shared data: what one process returns, on every rank."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from ..world import World
from .metrics import averaged, mean_of_others
from .replicas import mean_statistics
from .shard import Sharded

__all__ = ["evaluate", "predict"]


def evaluate(world: World, model: Any, x: Any = None, *arguments: Any, return_dict: bool = False, **settings: Any) -> Any:
    """The model's own `evaluate`; of a `Sharded`, with the metrics over the samples of all ranks. Collective then."""
    if not isinstance(x, Sharded):
        return type(model).evaluate(model, x, *arguments, return_dict=return_dict, **settings)
    mean_statistics(world, model)
    with x.in_order():
        logs = type(model).evaluate(model, x, *arguments, return_dict=True, **settings)
    known = averaged(world, model)
    found = {name: value for name, value in known.items() if name in logs} | mean_of_others(world, logs, known)
    return found if return_dict else model._flatten_metrics_in_order(found)


def predict(world: World, model: Any, x: Any, *arguments: Any, **settings: Any) -> Any:
    """The model's own `predict`; of a `Sharded`, with the rows of all ranks, in the data's order. Collective then."""
    if not isinstance(x, Sharded):
        return type(model).predict(model, x, *arguments, **settings)
    mean_statistics(world, model)
    with x.in_order():
        mine = type(model).predict(model, x, *arguments, **settings)
    steps = inspect.signature(type(model).predict).bind(model, x, *arguments, **settings).arguments.get("steps") or x.num_batches
    counts = np.array([x.counts[step] for step in range(min(steps, x.num_batches))], np.int64)
    everyone = world.allgather(counts[None, :, 1].copy())
    kept = np.concatenate([np.arange(rows) < count for rows, count in counts])
    step, rank = (np.repeat(index.reshape(-1), everyone.reshape(-1)) for index in np.indices(everyone.shape)[::-1])
    order = np.lexsort((rank, step))  # they come rank by rank, and within each step by step
    return keras.tree.map_structure(lambda rows: world.allgather(np.ascontiguousarray(rows[kept]))[order], mine)

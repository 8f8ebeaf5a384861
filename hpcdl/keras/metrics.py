"""Metrics of all ranks' samples: the sums that a metric keeps are added up over ranks, and its result computed from the total."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from ..world import World

__all__ = ["averaged", "samples"]


def averaged(world: World, model: Any) -> dict[str, float]:
    """The model's metrics over the samples of all ranks since they were reset. Collective; one all-reduce. The metrics stay as they are.

    Every metric of Keras, and every subclass of one, keeps sums, so its result is exact (accuracy, AUC, mean IoU …); a metric that derives
    from bare ``keras.metrics.Metric`` may keep anything, so its results are averaged, weighted by the ranks' samples.
    """
    mine = _results(model)
    if world.size == 1:
        return mine
    leaves = [leaf for metric in model.metrics for leaf in _leaves(metric)]
    sums = [v for leaf in leaves if _keeps_sums(leaf) for v in leaf.variables]
    others = [name for name in mine if any(not _keeps_sums(leaf) and name.endswith(leaf.name) for leaf in leaves)]
    seen = samples(model)
    local = [keras.ops.convert_to_numpy(v.value) for v in sums]
    flat = [np.array([seen, *(mine[name] * seen for name in others)]), *(x.reshape(-1).astype(np.float64) for x in local)]
    total = world.allreduce(np.concatenate(flat), name="metrics")
    kept, rest = total[: 1 + len(others)], total[1 + len(others) :]
    try:
        for v, x in zip(sums, local, strict=True):
            v.assign(rest[: x.size].reshape(x.shape).astype(x.dtype))
            rest = rest[x.size :]
        found = _results(model)
    finally:
        for v, x in zip(sums, local, strict=True):
            v.assign(x)
    return {**found, **{name: float(value / kept[0]) if kept[0] else 0.0 for name, value in zip(others, kept[1:], strict=True)}}


def _results(model: Any) -> dict[str, float]:
    return {name: float(keras.ops.convert_to_numpy(value)) for name, value in model.get_metrics_result().items()}


def _leaves(metric: Any) -> Iterator[Any]:
    """The metric, or those that it holds, as what `compile` makes of a list does."""
    inside = getattr(metric, "metrics", None)
    if inside:
        for each in inside:
            yield from _leaves(each)
    else:
        yield metric


def _keeps_sums(metric: Any) -> bool:
    base = next(kind for kind in type(metric).__mro__ if kind.__module__.startswith("keras."))
    return base is not keras.metrics.Metric


def samples(model: Any) -> float:
    """The samples that this rank's metrics have seen, as the mean of the loss counts them; 1 where it does not."""
    tracker = getattr(model, "_loss_tracker", None)
    seen = float(keras.ops.convert_to_numpy(tracker.count.value)) if tracker is not None else 0.0
    return seen or float(tracker is None)

"""Metrics of all ranks' samples: the sums that a metric keeps are added up over ranks, and its result computed from the total."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from ..agree import compare
from ..world import World

__all__ = ["averaged", "kept_sums", "mean_of_others", "samples"]


def averaged(world: World, model: Any) -> dict[str, Any]:
    """The model's metrics over the samples of all ranks since they were reset: numbers, and arrays where a metric has one for each class.

    Collective; one all-reduce. The metrics stay as they are.

    Every metric of Keras, and every subclass of one, keeps sums, so its result is exact (accuracy, AUC, mean IoU …); a metric that derives
    from bare ``keras.metrics.Metric`` may keep anything, so its results are averaged, weighted by the ranks' samples.
    """
    mine = _results(model)
    if world.size == 1:
        return {name: _plain(value) for name, value in mine.items()}
    sums = kept_sums(model)
    others = {name: mine[name] for name, metric in _origins(model) if not _keeps_sums(metric) and name in mine}
    seen = samples(model)
    local = [keras.ops.convert_to_numpy(v.value) for v in sums]
    flat = [np.array([seen]), *(seen * x.reshape(-1) for x in others.values()), *(x.reshape(-1).astype(np.float64) for x in local)]
    seen_by_all, *parts = np.split(world.allreduce(np.concatenate(flat), name="metrics"), np.cumsum([x.size for x in flat])[:-1])
    means = {
        name: (part / seen_by_all if seen_by_all[0] else 0 * part).reshape(x.shape)
        for (name, x), part in zip(others.items(), parts, strict=False)
    }
    try:
        for v, x, total in zip(sums, local, parts[len(others) :], strict=True):
            v.assign(total.reshape(x.shape).astype(x.dtype))
        found = {**_results(model), **means}
    finally:
        for v, x in zip(sums, local, strict=True):
            v.assign(x)
    return {name: _plain(value) for name, value in found.items()}


def kept_sums(model: Any) -> list[Any]:
    """The variables of the model's metrics that add up over ranks."""
    leaves = [leaf for metric in model.metrics for leaf in _leaves(metric)]
    return [v for leaf in leaves if _keeps_sums(leaf) for v in leaf.variables]


def mean_of_others(world: World, logs: Mapping[str, Any], known: Collection[str]) -> dict[str, float]:
    """The means over ranks of the numbers in `logs` under names that are not `known`: what a step of one's own or a callback put there.

    Collective. Raises Mismatch, on every rank, where the ranks' logs have other names.
    """
    others = {name: value for name, value in sorted(logs.items()) if name not in known and isinstance(value, numbers.Real)}
    compare(world, list(others), "the logs")
    if not others:
        return {}
    return dict(zip(others, world.allreduce(np.array(list(others.values()), np.float64), "mean").tolist(), strict=True))


def _results(model: Any) -> dict[str, Any]:
    """What the model's metrics result in, in float64, by the names of the logs."""
    return {name: np.asarray(keras.ops.convert_to_numpy(x), np.float64) for name, x in _flat(model.get_metrics_result())}


def _flat(results: Any) -> Iterator[tuple[str, Any]]:
    """A result that is a dict of several stands for them, as in Keras's logs."""
    for name, value in results.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value


def _origins(model: Any) -> Iterator[tuple[str, Any]]:
    """The names of the results, and the metrics that they come from."""
    for metric in model.metrics:
        result, inside = metric.result(), getattr(metric, "metrics", ())
        pairs = result.items() if isinstance(result, dict) else [(metric.name, result)]
        held = inside if len(inside) == len(pairs) else [metric] * len(pairs)  # in the order in which they were compiled
        for (name, value), leaf in zip(pairs, held, strict=True):
            yield from ((told, leaf) for told, _ in _flat({name: value}))


def _plain(value: Any) -> Any:
    """As Keras gives it: a float, where it is one number."""
    return value if value.ndim else float(value)


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

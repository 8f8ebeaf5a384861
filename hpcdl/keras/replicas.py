"""Models that are alike: compared by what they are made of, given rank 0's values, and, of what each rank has seen, the means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from ..agree import compare
from ..errors import Mismatch
from ..world import World
from .metrics import samples
from .optimizer import distributed
from .rates import rate

__all__ = [
    "broadcast",
    "broadcast_variables",
    "check_rates",
    "mean_statistics",
    "optimizers_of",
    "statistics_of",
    "unnumbered",
    "value_of",
]


def broadcast(world: World, model: Any, root: int = 0, own: Sequence[Any] = ()) -> None:
    """Overwrite the weights and the variables of the model's optimizers with rank `root`'s, but for those in `own`. Collective.

    Its optimizers: that of `compile`, and distributed ones that are attributes of it.

    Not the states of random generators, so that dropout differs between ranks wherever their seeds do. Raises Mismatch, the same on every
    rank, where the ranks' models differ in number, shape or dtype of their variables.
    """
    variables = [*model.weights, *(v for optimizer in optimizers_of(model) for v in optimizer.variables)]
    broadcast_variables(world, [v for v in variables if all(v is not mine for mine in own)], root)


def broadcast_variables(world: World, variables: Sequence[Any], root: int = 0) -> None:
    """Overwrite `variables` with rank `root`'s. Collective. Raises Mismatch, as above."""
    if world.size == 1:
        return
    lines = [f"{i} {unnumbered(v.name)}: {v.dtype}{list(v.shape)}" for i, v in enumerate(variables)]
    compare(world, lines, "the models' variables")
    values = [np.array(value_of(v)) for v in variables]
    started = [world.broadcast_async(value.reshape(-1).view(np.uint8), root) for value in values if value.size]
    for operation in started:
        operation.wait()
    if world.rank != root:
        for v, value in zip(variables, values, strict=True):
            v.assign(value)


def check_rates(world: World, model: Any) -> None:
    """Raise Mismatch, the same on every rank, unless all ranks' optimizers have the same learning rates. Collective; one all-gather."""
    rates = [rate(optimizer) for optimizer in optimizers_of(model)]
    everyone = world.allgather(np.array([rates]))
    different = (everyone != everyone[0]).any(1)
    if different.any():
        other = int(different.argmax())
        raise Mismatch(
            f"the learning rates differ between the {world.size} ranks: {everyone[0].tolist()} on rank 0, {everyone[other].tolist()} on "
            f"rank {other}, so that replicas would drift apart; cure: average the metrics (AverageMetrics(), or Horovod's "
            "MetricAverageCallback) before a callback that changes the rate by them, such as ReduceLROnPlateau"
        )


def mean_statistics(world: World, model: Any) -> None:
    """Make what layers keep of the data that they saw (the moving averages of BatchNormalization) the mean over all ranks. Collective.

    Weighted by the samples that each rank's metrics have seen, so that a rank that had stand-ins only counts for nothing; where nobody's
    have seen any, all count alike. Floating-point variables that no gradient changes; not weights that are frozen just now.
    """
    if world.size == 1:
        return
    kept = [v for v in statistics_of(model) if keras.backend.is_float_dtype(v.dtype)]
    values = [np.array(value_of(v)) for v in kept]
    if not values:
        return
    seen = samples(model)
    total = world.allreduce(np.array([seen]), name="samples")[0]
    share = seen / total if total else 1 / world.size
    sums = world.allreduce(np.concatenate([share * x.reshape(-1).astype(np.float64) for x in values]), name="statistics")
    parts = np.split(sums, np.cumsum([x.size for x in values])[:-1])
    for v, x, mean in zip(kept, values, parts, strict=True):
        v.assign(mean.reshape(x.shape).astype(x.dtype))


def statistics_of(model: Any) -> list[Any]:
    """What layers keep of the data that they saw: variables that no gradient changes, but not weights that are frozen just now."""
    return list({id(v): v for layer in model._flatten_layers() for v in layer._non_trainable_variables}.values())


def optimizers_of(model: Any) -> list[Any]:
    """That of `compile`, and distributed ones that are attributes of the model."""
    found = {id(optimizer): optimizer for optimizer in (getattr(model, "optimizer", None), *distributed(model)) if optimizer is not None}
    return list(found.values())


def unnumbered(name: str) -> str:
    """Without the numbers that Keras gives to layers, which differ where a rank has made other models before."""
    return re.sub(r"_\d+(?=[_/]|$)", "", name)


def value_of(v: Any) -> Any:
    """The value of a variable as an array of NumPy, which may be read-only."""
    return keras.ops.convert_to_numpy(v.value)

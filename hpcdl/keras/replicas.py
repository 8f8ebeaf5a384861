"""Models that begin alike: compared by what they are made of, then given rank 0's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..agree import compare
from ..world import World

__all__ = ["broadcast", "broadcast_variables"]


def broadcast(world: World, model: Any, root: int = 0, own: Sequence[Any] = ()) -> None:
    """Overwrite the weights and the optimizer's variables with rank `root`'s, but for those in `own`. Collective.

    Not the states of random generators, so that dropout differs between ranks wherever their seeds do. Raises Mismatch, the same on every
    rank, where the ranks' models differ in number, shape or dtype of their variables.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.weights, *(() if optimizer is None else optimizer.variables)]
    broadcast_variables(world, [v for v in variables if all(v is not mine for mine in own)], root)


def broadcast_variables(world: World, variables: Sequence[Any], root: int = 0) -> None:
    """Overwrite `variables` with rank `root`'s. Collective. Raises Mismatch, as above."""
    if world.size == 1:
        return
    lines = [f"{i} {v.name}: {v.dtype}{list(v.shape)}" for i, v in enumerate(variables)]
    compare(world, lines, "the models' variables")
    values = [np.array(_numpy(v)) for v in variables]
    started = [world.broadcast_async(value.reshape(-1).view(np.uint8), root) for value in values if value.size]
    for operation in started:
        operation.wait()
    if world.rank != root:
        for v, value in zip(variables, values, strict=True):
            v.assign(value)


def _numpy(v: Any) -> Any:
    from keras import ops

    return ops.convert_to_numpy(v.value)

"""How good a model is on data it has not seen, computed by all ranks together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .. import arrays
from ..world import World
from .losses import Loss
from .mlp import MLP

__all__ = ["Score", "evaluate"]


class Score(NamedTuple):
    """Mean loss, share of samples predicted right (None for a loss without such a notion), and the number of samples."""

    loss: float
    accuracy: float | None
    samples: int


def evaluate(model: MLP, loss: Loss, x: Any, y: Any, world: World, *, batch_size: int = 4096) -> Score:
    """Score `model` on ``x (n, features)`` and ``y``, the same on every rank; each rank computes its part, one all-reduce joins them.

    Every rank gets the same Score. Sums are float64. At most `batch_size` samples are in flight on a rank.
    """
    xp = arrays.of(x).xp
    totals = xp.zeros(2, "float64")  # sum of the samples' losses, samples predicted right
    first, end = len(x) * world.rank // world.size, len(x) * (world.rank + 1) // world.size
    for start in range(first, end, batch_size):
        part = slice(start, min(start + batch_size, end))
        output, _ = model.forward(x[part])
        value, _ = loss(output, y[part])
        totals[0] += value * len(output)
        totals[1] += loss.correct(output, y[part])
    world.allreduce(totals)
    summed, right = (total.item() for total in totals)
    return Score(summed / len(x), None if math.isnan(right) else right / len(x), len(x))

"""Data-parallel training: every rank computes the gradient of its shard, the reducer averages, every rank takes the same step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from .. import arrays
from ..errors import InvalidArgument
from ..reduction.reducer import Reducer
from ..shards import Shards
from ..world import World
from .losses import LOSSES, Loss
from .mlp import MLP
from .optimizers import OPTIMIZERS, Optimizer

__all__ = ["Spent", "Trainer"]


@dataclass
class Spent:
    """What this rank's steps have cost so far: seconds by part, bytes sent. On a GPU the seconds are the host's, which runs ahead."""

    steps: int = 0
    compute: float = 0.0
    waiting: float = 0.0
    optimizer: float = 0.0
    bytes_sent: int = 0


class Trainer:
    """Trains `model` on the ranks of `world`; n ranks do what one process does on the joined batch.

    `loss` and `optimizer` are instances, or names with parameters (``"adam:lr=0.01"``). `reduction` goes to `hpcdl.Reducer`: codec,
    collective, bucket_bytes, error_feedback, check_finite. The parameters of rank 0 are broadcast, so that all ranks start equal.

    Raises UnknownName or InvalidArgument for a bad loss or optimizer; `step` raises NonFinite on every rank where `check_finite` is
    on and a gradient is NaN or infinite on any.
    """

    def __init__(
        self, world: World, model: MLP, loss: Loss | str = "cross_entropy", optimizer: Optimizer | str = "adam", **reduction: Any
    ) -> None:
        self.world = world
        self.model = model
        self.loss = LOSSES.get(loss) if isinstance(loss, str) else loss
        self.optimizer = OPTIMIZERS.get(optimizer) if isinstance(optimizer, str) else optimizer
        for parameter in model.parameters:
            world.broadcast(parameter)
        first = model.parameters[0]
        shapes = [parameter.shape for parameter in model.parameters]
        self.reducer = Reducer(world, shapes, names=model.names, dtype=first.dtype, like=first, **reduction)
        self.spent = Spent()

    def step(self, x: Any, y: Any) -> Any:
        """One step on this rank's shard: x ``(n, features)`` float, y as the loss wants it, n may be 0. Every rank must call it.

        Returns the mean loss over this rank's samples, a scalar where `x` lives (0 for n = 0).
        """
        begin, sent = perf_counter(), self.world.bytes_sent
        self.reducer.begin(len(x))
        output, inputs = self.model.forward(x)
        value, delta = self.loss(output, y)
        self.model.backward(inputs, delta, self.reducer.views, self.reducer.ready)
        computed = perf_counter()
        self.reducer.wait()
        waited = perf_counter()
        self.optimizer.step(self.model.parameters, self.reducer.views)
        self.spent.compute += computed - begin
        self.spent.waiting += waited - computed
        self.spent.optimizer += perf_counter() - waited
        self.spent.bytes_sent += self.world.bytes_sent - sent
        self.spent.steps += 1
        return value

    def train_epoch(self, x: Any, y: Any, shards: Shards, epoch: int, after_step: Callable[[], None] | None = None) -> float:
        """Pass once over ``x (samples, features)`` and y, the same on every rank, of which `shards` picks this rank's.

        Returns the mean training loss over all samples of all ranks, each taken before its step. `after_step` is called after each.
        """
        xp = arrays.of(x).xp
        total = xp.zeros(1, "float64")
        for shard in shards.epoch(epoch):
            index = xp.asarray(shard)
            total += self.step(x[index], y[index]) * len(shard)
            if after_step is not None:
                after_step()
        self.world.allreduce(total)
        return float(total.item() / shards.samples)

    def fit(self, x: Any, y: Any, *, batch_size: int, epochs: int, seed: int = 0) -> list[float]:
        """Train for `epochs` passes in global batches of `batch_size`; returns the mean training loss of each pass.

        Raises InvalidArgument where x and y differ in length or y cannot belong to the model's outputs.
        """
        if len(x) != len(y):
            raise InvalidArgument(f"rank {self.world.rank} of {self.world.size}: {len(x)} samples but {len(y)} targets; give as many")
        self.loss.check(y, self.model.sizes[-1])
        shards = Shards(len(x), batch_size, self.world.rank, self.world.size, seed)
        return [self.train_epoch(x, y, shards, epoch) for epoch in range(epochs)]

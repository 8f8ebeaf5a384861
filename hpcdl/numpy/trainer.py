"""Data-parallel training: every rank computes the gradient of its shard, the reducer averages, every rank takes the same step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import arrays
from ..checkpoint import Checkpoint, Preemption
from ..checkpoint.parts import overwrite
from ..errors import InvalidArgument
from ..reduction.reducer import Reducer
from ..shards import Shards
from ..world import World
from .clock import Clock
from .losses import LOSSES, Loss
from .mlp import MLP
from .optimizers import OPTIMIZERS, Optimizer, state_of, take_state

__all__ = ["Spent", "Trainer"]


@dataclass
class Spent:
    """What this rank's steps have cost so far: seconds by part, bytes sent. On a GPU the seconds are those of the stream of the call, of
    steps that the device has done; waiting: in which it stood still for the reduction.
    """

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
        self._clock = Clock(arrays.of(first))
        self._losses: list[float] = []  # of the passes that are done
        self._loss, self._total = 0.0, np.zeros(1)  # of the pass under way on this rank: as restored, and so far

    def step(self, x: Any, y: Any) -> Any:
        """One step on this rank's shard: x ``(n, features)`` float, y as the loss wants it, n may be 0. Every rank must call it.

        Returns the mean loss over this rank's samples, a scalar where `x` lives (0 for n = 0).
        """
        begin, sent = self._clock.now(), self.world.bytes_sent
        self.reducer.begin(len(x))
        output, inputs = self.model.forward(x)
        value, delta = self.loss(output, y)
        self.model.backward(inputs, delta, self.reducer.views, self.reducer.ready)
        computed = self._clock.now()
        self.reducer.wait()
        waited = self._clock.now()
        self.optimizer.step(self.model.parameters, self.reducer.views)
        self._clock.between([begin, computed, waited, self._clock.now()], self._spend)
        self.spent.bytes_sent += self.world.bytes_sent - sent
        self.spent.steps += 1
        return value

    def _spend(self, parts: list[float]) -> None:
        self.spent.compute += parts[0]
        self.spent.waiting += parts[1]
        self.spent.optimizer += parts[2]

    def train_epoch(
        self, x: Any, y: Any, shards: Shards, epoch: int, after_step: Callable[[], None] | None = None, first: int = 0
    ) -> float:
        """Pass once over ``x (samples, features)`` and y, the same on every rank, of which `shards` picks this rank's.

        Returns the mean training loss over all samples of all ranks, each taken before its step. `after_step` is called after each.
        first: the step of the pass to begin with, for a pass of which a restored trainer has done some.
        """
        xp = arrays.of(x).xp
        if not first:
            self._loss = 0.0
        total = xp.full(1, self._loss)
        for shard in map(shards.part, shards.batches(epoch, first)):
            index = xp.asarray(shard)
            total += self.step(x[index], y[index]) * len(shard)
            if after_step is not None:
                self._total = total
                after_step()
        self.world.allreduce(total)
        mean = float(total.item() / shards.samples)
        self._clock.settle()
        return mean

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int,
        epochs: int,
        seed: int = 0,
        checkpoint: Checkpoint | None = None,
        save_every: int = 100,
        stop: Preemption | None = None,
    ) -> list[float]:
        """Train for `epochs` passes in global batches of `batch_size`; returns the mean training loss of each pass.

        checkpoint: of which this trainer is a part. It is restored first, so that training goes on where it ended, on any number of
        ranks, and saved after every `save_every` steps and at the end. stop: `hpcdl.preemption(world, checkpoint)`, asked after each step.

        Raises InvalidArgument where x and y differ in length or y cannot belong to the model's outputs.
        """
        if len(x) != len(y):
            raise InvalidArgument(f"rank {self.world.rank} of {self.world.size}: {len(x)} samples but {len(y)} targets; give as many")
        self.loss.check(y, self.model.sizes[-1])
        shards = Shards(len(x), batch_size, self.world.rank, self.world.size, seed)
        self._losses, done = [], 0
        if checkpoint is not None:
            done = checkpoint.restore() or 0

        def after_step() -> None:
            nonlocal done
            done += 1
            if done % len(shards):  # with the last step a pass is not done yet: its loss is to be kept
                between_steps()

        def between_steps() -> None:
            if checkpoint is not None and done % save_every == 0 and done < epochs * len(shards):
                checkpoint.save(done)
            if stop is not None:
                stop(done)

        for epoch in range(done // len(shards), epochs):
            self._losses.append(self.train_epoch(x, y, shards, epoch, after_step, done % len(shards)))
            between_steps()
        if checkpoint is not None and checkpoint.saved != done:
            checkpoint.save(done)
        return self._losses

    def state_dict(self) -> dict[str, Any]:
        """What is the same on all ranks: parameters, the optimizer, what the reducer keeps. The arrays are the trainer's own."""
        parameters = dict(zip(self.model.names, self.model.parameters, strict=True))
        return {
            "parameters": parameters,
            "optimizer": state_of(self.optimizer),
            "reducer": self.reducer.state_dict(),
            "losses": self._losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises DataError for the state of another model or optimizer."""
        overwrite(dict(zip(self.model.names, self.model.parameters, strict=True)), state["parameters"], "parameters")
        take_state(self.optimizer, state["optimizer"], self.model.parameters[0])
        self.reducer.load_state_dict(state["reducer"])
        self._losses = list(state["losses"])

    def rank_state_dict(self) -> dict[str, Any]:
        """What is another on each rank: what codecs have dropped, and the loss of the pass under way."""
        return {"reducer": self.reducer.rank_state_dict(), "loss": float(self._total.item())}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, on as many ranks."""
        self.reducer.load_rank_state_dict(state["reducer"])
        self._loss = state["loss"]

    def load_all_rank_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what ranks of another number had; together the ranks have as much."""
        self.reducer.load_all_rank_state_dicts([state["reducer"] for state in states])
        self._loss = sum(state["loss"] for state in states) / self.world.size

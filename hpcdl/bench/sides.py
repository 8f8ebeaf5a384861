"""The sides of the overlap measurement: what each must do, and hpcdl's own. The peer is in `ddp`."""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Protocol

import numpy as np

from ..numpy import MLP, Trainer
from ..world import World

__all__ = ["Own", "Side"]


class Side(Protocol):
    """One way to train; the same network for all."""

    name: str

    def prepare(self, batch: int) -> None:
        """Draw a batch of that many samples for this rank."""

    def backward(self) -> float:
        """One forward and backward pass without communication; seconds of backward."""

    def compute(self) -> float:
        """A step without communication; seconds of its backward."""

    def communication(self) -> None:
        """The communication of a step alone."""

    def step(self) -> None:
        """The whole step."""


class Own:
    """hpcdl: an MLP in NumPy, gradients in the reducer's views."""

    def __init__(self, world: World, sizes: tuple[int, ...], args: argparse.Namespace) -> None:
        self.name = "hpcdl" + (f", {args.codec}" if args.codec != "none" else "")
        chosen = {"codec": args.codec, "collective": args.collective, "bucket_bytes": args.bucket}
        self.trainer = Trainer(world, MLP(sizes, seed=0), "mean_squared_error", "sgd:lr=1e-6", error_feedback=args.error_feedback, **chosen)
        self.random = np.random.default_rng(world.rank)
        self.x = self.y = np.empty((0, sizes[0]), np.float32)

    def prepare(self, batch: int) -> None:
        self.x = self.random.standard_normal((batch, self.x.shape[1]), np.float32)
        self.y = self.random.standard_normal((batch, self.trainer.model.sizes[-1]), np.float32)

    def backward(self) -> float:
        model, views = self.trainer.model, self.trainer.reducer.views
        output, inputs = model.forward(self.x)
        _, delta = self.trainer.loss(output, self.y)
        begin = perf_counter()
        model.backward(inputs, delta, views)
        return perf_counter() - begin

    def compute(self) -> float:
        seconds = self.backward()
        self.trainer.optimizer.step(self.trainer.model.parameters, self.trainer.reducer.views)
        return seconds

    def communication(self) -> None:
        reducer = self.trainer.reducer
        reducer.begin(len(self.x))
        for i in reversed(range(len(reducer.views))):
            reducer.ready(i)
        reducer.wait()

    def step(self) -> None:
        self.trainer.step(self.x, self.y)

"""Models and data that are the same wherever they are made, and what one process would do with all ranks' batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import hpcdl.torch as ht
from hpcdl.torch import samples

Loss = Callable[[nn.Module, Any], torch.Tensor]


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` with values that depend on `seed` alone, whatever thread or rank asks."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype) * 0.3)
    return module


def net(seed: int = 0) -> nn.Module:
    """Three layers, 6 -> 3."""
    return settled(nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 3)), seed)


def rows(step: int, rank: int, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of n samples: x (n, 6), y (n, 3)."""
    source = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(n, 6, generator=source), torch.randn(n, 3, generator=source)


def squared(model: nn.Module, batch: Any) -> torch.Tensor:
    """Mean squared error."""
    x, y = batch
    return nn.functional.mse_loss(model(x), y)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[Any], loss: Loss = squared) -> nn.Module:
    """Plain steps."""
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return model


def joined(model: nn.Module, shards: Sequence[Any], loss: Loss = squared, weights: Sequence[float] | None = None) -> torch.Tensor:
    """The loss on the joined batch: the mean of the shards' losses, weighted."""
    weights = [1.0] * len(shards) if weights is None else weights
    return sum(w * loss(model, shard) for w, shard in zip(weights, shards, strict=True) if w) / sum(weights)


def same(model: nn.Module, other: nn.Module, **bounds: float) -> None:
    """Assert that the parameters and buffers of both are close."""
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    bounds = {"rtol": 1e-5, "atol": 1e-5} | bounds
    for name, x in ours.items():
        torch.testing.assert_close(x, theirs[name], msg=lambda text, name=name: f"{name}: {text}", **bounds)


def against_one(
    world: Any,
    build: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    *,
    loss: Loss = squared,
    steps: int = 4,
    counts: Sequence[int] | None = None,
    batch: Callable[..., Any] = rows,
    bounds: dict[str, float] | None = None,
    **options: Any,
) -> ht.DistributedDataParallel:
    """Train on these ranks and in one process on the joined batch; assert that both end alike and that replicas are bitwise equal.

    counts: samples of each rank's batches, told as a loader tells them.
    """
    sizes = [5] * world.size if counts is None else list(counts)
    single = build()
    model = ht.DistributedDataParallel(copy.deepcopy(single), world=world, **options)
    ours, one = optimizer(model.parameters()), optimizer(single.parameters())
    for step in range(steps):
        samples.announce(world, None if counts is None else sizes[world.rank])
        train(model, ours, [batch(step, world.rank, max(1, sizes[world.rank]))], loss)
        one.zero_grad()
        joined(single, [batch(step, rank, max(1, n)) for rank, n in enumerate(sizes)], loss, sizes).backward()
        one.step()
    samples.announce(world, None)
    model.check_replicas()
    same(model, single, **(bounds or {}))
    return model

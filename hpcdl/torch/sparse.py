"""Means of sparse gradients: the rows that any rank has touched, gathered and added up."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..world import World
from .samples import Samples
from .streams import in_order
from .tensors import as_array, as_tensor

__all__ = ["dense_mean", "mean"]


def mean(world: World, p: torch.nn.Parameter, samples: Samples) -> torch.Tensor:
    """The weighted mean over all ranks of ``p.grad``, sparse; None counts as zero. Collective; bytes: those of all ranks' rows."""
    share = _share(world, samples)
    gradient = p.grad
    if gradient is None or share == 0:
        gradient = torch.sparse_coo_tensor(
            torch.empty((1, 0), dtype=torch.int64), torch.empty((0, *p.shape[1:]), dtype=p.dtype), p.shape, check_invariants=False
        )
    gradient = gradient.coalesce()
    rows = as_array(gradient.indices().t().contiguous().cpu())
    values = as_array((gradient.values() * share).contiguous().cpu())
    everyone: Any = as_tensor(world.allgather(rows)).t(), as_tensor(world.allgather(values))
    found: torch.Tensor = torch.sparse_coo_tensor(*everyone, p.shape, device=p.device, check_invariants=False).coalesce()
    return found


def dense_mean(world: World, p: torch.nn.Parameter, samples: Samples) -> torch.Tensor:
    """The same where some rank's gradient is dense: then every rank gets a dense one. Collective."""
    gradient = torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
    gradient = gradient.contiguous()
    with in_order(gradient):
        world.allreduce(as_array(gradient), "mean", weight=samples.mine)
    return gradient


def _share(world: World, samples: Samples) -> float:
    """This rank's part of all weights."""
    if samples.mine is None:
        return 1 / world.size
    total = samples.total
    if total is None:
        total = float(world.allreduce(np.array([samples.mine], np.float64))[0])
    return samples.mine / total if total else 0.0

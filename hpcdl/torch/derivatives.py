"""The collectives as functions that autograd knows, each derivative being a collective again.

The derivative is that of the *sum over the ranks of their losses* with respect to this rank's input. It is a collective, so `backward`
must pass through it on every rank.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from ..collectives.layout import split_evenly
from ..world import World
from .streams import ordered
from .tensors import as_array, as_tensor

__all__ = ["AllGather", "AllReduce", "AllToAll", "Broadcast", "ReduceScatter", "packed"]


def packed(x: torch.Tensor) -> torch.Tensor:
    """A new contiguous tensor of the same values, of which autograd knows nothing."""
    return x.detach().clone(memory_format=torch.contiguous_format)


class AllReduce(torch.autograd.Function):
    """Sum or (weighted) mean; the derivative is the sum of the outputs' gradients, times this rank's part of the mean."""

    @staticmethod
    @ordered
    def forward(ctx: Any, x: torch.Tensor, world: World, op: str, how: dict[str, Any], weight: float | None) -> torch.Tensor:
        """`how`: codec, collective, name."""
        ctx.world, ctx.how, ctx.factor = world, how, 1.0 if op == "sum" else 1 / world.size
        out = packed(x)
        world.allreduce(as_array(out), op, weight=weight, **how)
        if weight is not None:
            total = float(world.allreduce(np.array(weight, np.float64)))
            ctx.factor = weight / total if total else 0.0
        return out

    @staticmethod
    @ordered
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """An all-reduce with the same codec."""
        summed = AllReduce.apply(grad, ctx.world, "sum", ctx.how, None)
        return summed if ctx.factor == 1 else summed * ctx.factor, None, None, None, None


class Broadcast(torch.autograd.Function):
    """One rank's values for all; its derivative is the sum of everybody's gradients, the others' is zero."""

    @staticmethod
    @ordered
    def forward(ctx: Any, x: torch.Tensor, world: World, root: int) -> torch.Tensor:
        """Only the shape and dtype of the others' `x` matter."""
        ctx.world, ctx.root = world, root
        out = packed(x)
        world.broadcast(as_array(out), root)
        return out

    @staticmethod
    @ordered
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """An all-reduce."""
        summed = AllReduce.apply(grad, ctx.world, "sum", {}, None)
        here = torch.tensor(ctx.world.rank == ctx.root, device=grad.device)
        return torch.where(here, summed, torch.zeros_like(summed)), None, None


class AllGather(torch.autograd.Function):
    """All ranks' values along dimension 0; the derivative is this rank's part of the sum of everybody's gradients."""

    @staticmethod
    @ordered
    def forward(ctx: Any, x: torch.Tensor, world: World) -> torch.Tensor:
        """First dimensions may differ."""
        ctx.world, ctx.shape = world, x.shape
        if ctx.needs_input_grad[0]:
            ctx.counts = world.allgather(np.array([len(x) if x.ndim else 1], np.int64)).tolist()
        return as_tensor(world.allgather(as_array(x.detach().contiguous())))

    @staticmethod
    @ordered
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """A reduce-scatter; an all-reduce, of twice the bytes, where first dimensions differ by more than an even split does."""
        begin = sum(ctx.counts[: ctx.world.rank])
        end = begin + ctx.counts[ctx.world.rank]
        if split_evenly(len(grad), ctx.world.size) == [0, *np.cumsum(ctx.counts).tolist()]:
            mine = ReduceScatter.apply(grad, ctx.world, "sum", None)
        else:
            mine = AllReduce.apply(grad, ctx.world, "sum", {}, None)[begin:end]
        return mine.reshape(ctx.shape), None


class ReduceScatter(torch.autograd.Function):
    """This rank's part of the sum or mean; the derivative is everybody's gradients, one after the other."""

    @staticmethod
    @ordered
    def forward(ctx: Any, x: torch.Tensor, world: World, op: str, codec: Any) -> torch.Tensor:
        """Parts as of ``numpy.array_split``."""
        ctx.world, ctx.op = world, op
        return as_tensor(world.reduce_scatter(as_array(x.detach().contiguous()), op, codec))

    @staticmethod
    @ordered
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """An all-gather."""
        whole = AllGather.apply(grad, ctx.world)
        return whole / ctx.world.size if ctx.op == "mean" else whole, None, None, None


class AllToAll(torch.autograd.Function):
    """Part r of everybody's values for rank r; the derivative goes back the same way."""

    @staticmethod
    @ordered
    def forward(ctx: Any, x: torch.Tensor, world: World) -> torch.Tensor:
        """Parts as of ``numpy.array_split``."""
        ctx.world, ctx.shape = world, x.shape
        return as_tensor(world.alltoall(as_array(x.detach().contiguous())))

    @staticmethod
    @ordered
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """An all-to-all, of parts that are filled up with zeros to the length of the longest."""
        size, rank, inner = ctx.world.size, ctx.world.rank, ctx.shape[1:]
        begins = split_evenly(ctx.shape[0], size)
        lengths = [end - begin for begin, end in itertools.pairwise(begins)]
        longest, mine = max(lengths), lengths[rank]
        parts = grad.reshape(size, mine, *inner)
        full = torch.cat([parts, grad.new_zeros(size, longest - mine, *inner)], 1) if mine < longest else parts
        back = AllToAll.apply(full.reshape(size * longest, *inner), ctx.world).reshape(size, longest, *inner)
        return torch.cat([back[peer, : lengths[peer]] for peer in range(size)]), None

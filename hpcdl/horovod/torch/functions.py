"""The collectives that autograd passes through. Derivatives are Horovod's, which are for losses that are averaged over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..arguments import op_of, waiting
from ..basics import Average, Sum, rank
from ..compressors import codec_of
from ..process_sets import ProcessSet, global_process_set
from .compression import Compression
from .memory import synchronize
from .movement import allgather_async, alltoall_async, broadcast_async, grouped_allgather_async
from .reductions import (
    allreduce_async_,
    grouped_allreduce_async_,
    plain_allreduce,
    start_reducescatter,
)

__all__ = [
    "allgather",
    "allreduce",
    "allreduce_",
    "alltoall",
    "broadcast",
    "grouped_allgather",
    "grouped_allreduce",
    "grouped_allreduce_",
    "grouped_reducescatter",
    "reducescatter",
]


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grouped: bool, name: Any, compression: Any, how: tuple[Any, ...], *tensors: torch.Tensor) -> Any:
        ctx.grouped, ctx.compression, ctx.how = grouped, compression, how
        return plain_allreduce(tensors, name, compression, how, grouped)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        dense = [grad.contiguous() for grad in grads]
        outs = _AllReduce.apply(ctx.grouped, None, ctx.compression, ctx.how, *dense)
        return (None, None, None, None, *(outs if ctx.grouped else (outs,)))


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grouped: bool, name: Any, process_set: ProcessSet, *tensors: torch.Tensor) -> Any:
        ctx.grouped, ctx.process_set, ctx.rows = grouped, process_set, [x.shape[0] for x in tensors]
        with waiting(process_set):
            if grouped:
                return synchronize(grouped_allgather_async(tensors, name, process_set))
            return synchronize(allgather_async(tensors[0], name, process_set))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        there, mine = ctx.process_set, torch.tensor([ctx.rows], dtype=torch.int64)
        before = allgather(mine, process_set=there)[: there.rank()].sum(0).tolist()
        outs = grouped_allreduce([grad.contiguous() for grad in grads], op=Average, process_set=there)
        parts = [out.narrow(0, begin, n) for out, begin, n in zip(outs, before, ctx.rows, strict=True)]
        return (None, None, None, *parts)


class _Broadcast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, root_rank: int, name: Any, process_set: ProcessSet) -> Any:
        ctx.root, ctx.process_set = root_rank, process_set
        with waiting(process_set):
            return synchronize(broadcast_async(tensor, root_rank, name, process_set))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        out = allreduce(grads[0].contiguous(), op=Average, process_set=ctx.process_set)
        return out if rank() == ctx.root else torch.zeros_like(out), None, None, None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, splits: Any, name: Any, process_set: ProcessSet) -> Any:
        even = splits is None
        numbers = [tensor.shape[0] // (process_set.size() or 1)] * (process_set.size() or 1) if even else splits
        with waiting(process_set):
            out = synchronize(alltoall_async(tensor, splits, name, process_set))
        ctx.process_set, ctx.rows = process_set, tensor.shape[0]
        ctx.received = numbers if even else out[1]
        if not even:
            ctx.mark_non_differentiable(out[1])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        back, _ = alltoall(grads[0].contiguous(), splits=ctx.received, process_set=ctx.process_set)
        missing = ctx.rows - back.shape[0]  # rows that the splits left out
        if missing:
            back = torch.cat([back, back.new_zeros(missing, *back.shape[1:])])
        return back, None, None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: Any, how: tuple[Any, ...], *tensors: torch.Tensor) -> Any:
        op, process_set, prescale, postscale, *_ = how
        ctx.process_set, ctx.factor = process_set, prescale * postscale * ((process_set.size() or 1) if op == Sum else 1)
        with waiting(process_set):
            return synchronize(start_reducescatter(tensors, name, *how))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        outs = grouped_allgather([(grad * ctx.factor).contiguous() for grad in grads], process_set=ctx.process_set)
        return (None, None, *outs)


def allreduce(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    compression: Any = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """A new tensor: `tensor` reduced over all ranks."""
    how = op_of(op, average), prescale_factor, postscale_factor, process_set
    if torch.is_grad_enabled() and getattr(tensor, "requires_grad", False):
        found: torch.Tensor = _AllReduce.apply(False, name, compression, how, tensor)
    else:  # what autograd would do with it costs as much as a message
        found = plain_allreduce([tensor], name, compression, how, grouped=False)
    return found


def allreduce_(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """Reduce `tensor` over all ranks, in place, and return it."""
    with waiting(process_set):
        found: torch.Tensor = synchronize(allreduce_async_(tensor, average, name, op, prescale_factor, postscale_factor, process_set))
    return found


def grouped_allreduce(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    compression: Any = Compression.none,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> list[torch.Tensor]:
    """New tensors: `tensors` reduced over all ranks, all together."""
    how = op_of(op, average), prescale_factor, postscale_factor, process_set
    return list(_AllReduce.apply(True, name, compression, how, *tensors))


def grouped_allreduce_(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Reduce `tensors` over all ranks, in place and all together, and return them."""
    with waiting(process_set):
        return synchronize(grouped_allreduce_async_(tensors, average, name, op, prescale_factor, postscale_factor, process_set))


def allgather(tensor: torch.Tensor, name: str | None = None, process_set: ProcessSet = global_process_set) -> torch.Tensor:
    """All ranks' `tensor` along dimension 0, in rank order; first dimensions may differ."""
    found: torch.Tensor = _AllGather.apply(False, name, process_set, tensor)
    return found


def grouped_allgather(tensors: Sequence[torch.Tensor], name: str | None = None, process_set: ProcessSet = global_process_set) -> Any:
    """The same for several tensors, all together."""
    return _AllGather.apply(True, name, process_set, *tensors)


def broadcast(tensor: torch.Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = global_process_set) -> torch.Tensor:
    """A new tensor: rank `root_rank`'s `tensor`."""
    found: torch.Tensor = _Broadcast.apply(tensor, root_rank, name, process_set)
    return found


def alltoall(tensor: torch.Tensor, splits: Any = None, name: str | None = None, process_set: ProcessSet = global_process_set) -> Any:
    """What all ranks send to this one, in rank order; with splits also the numbers of rows from each. See `alltoall_async`."""
    return _AllToAll.apply(tensor, splits, name, process_set)


def reducescatter(
    tensor: torch.Tensor,
    name: str | None = None,
    compression: Any = Compression.none,
    op: int = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> torch.Tensor:
    """This rank's rows of the reduced `tensor`."""
    return _scattered([tensor], name, compression, False, op, process_set, prescale_factor, postscale_factor)[0]


def grouped_reducescatter(
    tensors: Sequence[torch.Tensor],
    name: str | None = None,
    compression: Any = Compression.none,
    op: int = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> list[torch.Tensor]:
    """The same for several tensors, all together."""
    return _scattered(tensors, name, compression, True, op, process_set, prescale_factor, postscale_factor)


def _scattered(tensors: Sequence[torch.Tensor], name: Any, compression: Any, grouped: bool, *how: Any) -> list[torch.Tensor]:
    """how: op, process set, factors before and after."""
    codec = codec_of(compression, all(x.dtype.is_floating_point for x in tensors))
    pairs = [(x, None) if codec is not None else compression.compress(x) for x in tensors]
    outs = _ReduceScatter.apply(name, (*how, grouped, codec or "none"), *(x for x, _ in pairs))
    found = list(outs) if grouped else [outs]
    return found if codec is not None else [compression.decompress(out, context) for out, (_, context) in zip(found, pairs, strict=True)]

"""Collectives on tensors: a new tensor comes back, the input stays as it was, and autograd may pass through.

They take tensors on the host and on GPUs, contiguous or not, of the dtypes float16, bfloat16, float32, float64, int8 … int64,
uint8 … uint64 and bool. world: default is the one that `init` made. Every rank must call the same in the same order.

Derivatives are those of the sum over the ranks of their losses, so an input must require a gradient on all ranks or on none, and every
rank must run backward. With a trailing underscore: in place, without a derivative, also on parameters.
"""

from __future__ import annotations

from typing import Any

import torch

from ..collectives.ops import by_name as op_by_name
from ..errors import InvalidArgument
from ..world import World
from .derivatives import AllGather, AllReduce, AllToAll, Broadcast, ReduceScatter, packed
from .start import default_world
from .streams import in_order, ordered
from .tensors import as_array

__all__ = [
    "Handle",
    "allgather",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "alltoall",
    "barrier",
    "broadcast",
    "broadcast_",
    "reduce_scatter",
]


@ordered
def allreduce(
    x: torch.Tensor,
    op: str = "sum",
    codec: Any = None,
    collective: str = "auto",
    weight: float | None = None,
    name: str = "",
    world: World | None = None,
) -> torch.Tensor:
    """`x` reduced over all ranks; bitwise equal on all. Arguments: see `hpcdl.World.allreduce`.

    Differentiable for sum and mean, the weighted one too: an all-reduce of the gradients, with the same codec. Raises InvalidArgument
    for another op on what requires a gradient.
    """
    there, how = _world(world), {"codec": codec, "collective": collective, "name": name}
    if op in ("sum", "mean"):
        return _apply(AllReduce, x, there, op, how, weight)
    _no_derivative(x, op)
    out = packed(x)
    there.allreduce(as_array(out), op, weight=weight, **how)
    return out


def allreduce_(
    x: torch.Tensor,
    op: str = "sum",
    codec: Any = None,
    collective: str = "auto",
    weight: float | None = None,
    name: str = "",
    world: World | None = None,
) -> torch.Tensor:
    """`allreduce` in place."""
    return allreduce_async_(x, op, codec, collective, weight, name, world).wait()


def allreduce_async(
    x: torch.Tensor,
    op: str = "sum",
    codec: Any = None,
    collective: str = "auto",
    weight: float | None = None,
    name: str = "",
    world: World | None = None,
) -> Handle:
    """`allreduce` without waiting, and without a derivative: raises InvalidArgument for what requires one."""
    if x.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument("allreduce_async has no derivative; use allreduce, or pass x.detach()")
    return allreduce_async_(packed(x), op, codec, collective, weight, name, world)


@ordered
def allreduce_async_(
    x: torch.Tensor,
    op: str = "sum",
    codec: Any = None,
    collective: str = "auto",
    weight: float | None = None,
    name: str = "",
    world: World | None = None,
) -> Handle:
    """`allreduce_` without waiting. `x` must stay untouched until then."""
    work = x.detach().contiguous()
    operation = _world(world).allreduce_async(as_array(work), op, codec, collective, weight=weight, name=name)
    return Handle(operation, work, x)


class Handle:
    """An all-reduce under way. Handles may be waited for in any order."""

    def __init__(self, operation: Any, work: torch.Tensor, target: torch.Tensor) -> None:
        self._operation, self._work, self._target = operation, work, target
        self._over = False

    def done(self) -> bool:
        """Whether it has finished, well or not; never blocks."""
        return bool(self._operation.done())

    def wait(self, timeout: float | None = None) -> torch.Tensor:
        """The result. Raises WaitTimeout after `timeout` seconds; it goes on, and can be waited for again."""
        with in_order(self._work):
            self._operation.wait(timeout)
        if not self._over:
            self._over = True
            _put(self._work, self._target)
        return self._target


def broadcast(x: torch.Tensor, root: int = 0, world: World | None = None) -> torch.Tensor:
    """Rank `root`'s `x`; shape and dtype must be the same on all. Derivative: the sum of all gradients for `root`, zero for the others."""
    return _apply(Broadcast, x, _world(world), root)


@ordered
def broadcast_(x: torch.Tensor, root: int = 0, world: World | None = None) -> torch.Tensor:
    """`broadcast` in place."""
    work = x.detach().contiguous()
    _world(world).broadcast(as_array(work), root)
    _put(work, x)
    return x


def allgather(x: torch.Tensor, world: World | None = None) -> torch.Tensor:
    """All ranks' `x` along dimension 0, in rank order; first dimensions may differ. Derivative: a reduce-scatter of the gradients."""
    return _apply(AllGather, x, _world(world))


def reduce_scatter(x: torch.Tensor, op: str = "sum", codec: Any = None, world: World | None = None) -> torch.Tensor:
    """Part `rank` of the reduced `x`, cut along dimension 0 like ``numpy.array_split``.

    Differentiable for sum and mean: an all-gather of the gradients. Raises InvalidArgument for another op on what requires a gradient.
    """
    if op not in ("sum", "mean"):
        _no_derivative(x, op)
    return _apply(ReduceScatter, x, _world(world), op, codec)


def alltoall(x: torch.Tensor, world: World | None = None) -> torch.Tensor:
    """Part `rank` of every rank's `x`, cut along dimension 0 like ``numpy.array_split``, in rank order. Derivative: the way back."""
    return _apply(AllToAll, x, _world(world))


def barrier(world: World | None = None) -> None:
    """Return once every rank has come here."""
    _world(world).barrier()


def _world(world: World | None) -> World:
    return default_world() if world is None else world


def _apply(function: Any, x: torch.Tensor, *arguments: Any) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        raise InvalidArgument(f"expected a tensor, got a {type(x).__name__}; wrap it in torch.as_tensor(…)")
    found: torch.Tensor = function.apply(x, *arguments)
    return found


def _no_derivative(x: torch.Tensor, op: str) -> None:
    if x.requires_grad and torch.is_grad_enabled():
        name = op_by_name(op).name
        raise InvalidArgument(f"the derivative of op {name!r} is not defined here, only that of sum and mean; pass x.detach()")


def _put(work: torch.Tensor, target: torch.Tensor) -> None:
    """Make it the values of `target`, and let autograd know that they have changed."""
    if work.data_ptr() != target.data_ptr():
        target.detach().copy_(work)
    else:
        torch.autograd.graph.increment_version(target)

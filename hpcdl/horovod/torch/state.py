"""The same beginning on all ranks: parameters and optimizers from one rank to the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from ...errors import InvalidArgument
from .. import objects
from ..arguments import waiting
from ..basics import rank
from ..process_sets import global_process_set
from .memory import synchronize
from .movement import broadcast_async_

__all__ = ["allgather_object", "broadcast_optimizer_state", "broadcast_parameters"]


def broadcast_parameters(params: Any, root_rank: int) -> None:
    """Overwrite tensors with rank `root_rank`'s: a ``state_dict()``, a list of tensors, or of (name, tensor). All are under way at once.

    Raises InvalidArgument for anything else.
    """
    if isinstance(params, dict):
        pairs = sorted(params.items())
    elif isinstance(params, Iterable) and not isinstance(params, torch.Tensor):
        pairs = [p if isinstance(p, tuple) else (None, p) for p in params]
    else:
        raise InvalidArgument(f"invalid params of type: {type(params)}")
    landings = []
    with waiting(global_process_set):
        for name, p in pairs:
            if isinstance(p, torch.Tensor):
                there = p.detach().contiguous()
                landings.append((p, there, broadcast_async_(there, root_rank, None if name is None else f"broadcast.{name}")))
        for p, there, handle in landings:
            synchronize(handle)
            if there.data_ptr() != p.data_ptr():
                p.detach().copy_(there)


class _Place(NamedTuple):
    """Where a tensor was in a structure."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def broadcast_optimizer_state(optimizer: torch.optim.Optimizer, root_rank: int, model: Any = None) -> None:
    """Give all ranks the state and the settings of rank `root_rank`'s optimizer. Those that have made no step yet need not make one.

    model: not needed here.
    """
    tensors: list[torch.Tensor] = []
    plan = _apart(optimizer.state_dict(), tensors) if rank() == root_rank else None
    plan = objects.broadcast_object(plan, root_rank, "optimizer_state")
    if rank() != root_rank:
        tensors = [torch.empty(place.shape, dtype=place.dtype) for place in _places(plan)]
    host = [x.detach().cpu().contiguous() for x in tensors]
    broadcast_parameters([(f"optimizer_state.{i}", x) for i, x in enumerate(host)], root_rank)
    if rank() != root_rank:
        optimizer.load_state_dict(_together(plan, host))


def allgather_object(obj: Any, name: str | None = None) -> list[Any]:
    """Every rank's object, in rank order, on every rank. Two all-gathers.

    Raises InvalidArgument, on every rank, where one cannot be pickled.
    """
    return objects.allgather_object(obj, name)


def _apart(x: Any, tensors: list[torch.Tensor]) -> Any:
    """`x` with places for its tensors, which go into the list."""
    if isinstance(x, torch.Tensor):
        tensors.append(x)
        return _Place(len(tensors) - 1, tuple(x.shape), x.dtype)
    if isinstance(x, dict):
        return {key: _apart(value, tensors) for key, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_apart(value, tensors) for value in x)
    return x


def _places(x: Any) -> list[_Place]:
    """The places in a structure, in order."""
    if isinstance(x, _Place):
        return [x]
    inside = x.values() if isinstance(x, dict) else x if type(x) in (list, tuple) else ()
    return [place for value in inside for place in _places(value)]


def _together(x: Any, tensors: list[torch.Tensor]) -> Any:
    """The inverse of `_apart`."""
    if isinstance(x, _Place):
        return tensors[x.number]
    if isinstance(x, dict):
        return {key: _together(value, tensors) for key, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_together(value, tensors) for value in x)
    return x

"""The same beginning on all ranks: parameters, optimizers and Python objects from one rank to the others.

Objects travel by pickle (by cloudpickle where it is installed). Unpickling runs code that the bytes name; they come from the ranks of
this job and from nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from ...errors import InvalidArgument
from ..basics import named, rank
from ..process_sets import ProcessSet, global_process_set
from .functions import allgather
from .handles import synchronize
from .movement import broadcast_, broadcast_async_
from .reductions import waiting

__all__ = ["allgather_object", "broadcast_object", "broadcast_optimizer_state", "broadcast_parameters"]


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
    plan = broadcast_object(plan, root_rank, "optimizer_state")
    if rank() != root_rank:
        tensors = [torch.empty(place.shape, dtype=place.dtype) for place in _places(plan)]
    host = [x.detach().cpu().contiguous() for x in tensors]
    broadcast_parameters([(f"optimizer_state.{i}", x) for i, x in enumerate(host)], root_rank)
    if rank() != root_rank:
        optimizer.load_state_dict(_together(plan, host))


def broadcast_object(obj: Any, root_rank: int = 0, name: str | None = None, process_set: ProcessSet = global_process_set) -> Any:
    """Rank `root_rank`'s object, on every rank; what the others give is ignored. Two broadcasts.

    Raises InvalidArgument, on every rank, where it cannot be pickled.
    """
    name = name or "broadcast_object"
    data, good = _dump(obj) if rank() == root_rank else (b"", True)
    head: Any = torch.tensor([len(data), good], dtype=torch.int64)
    broadcast_(head, root_rank, f"{name}.sz", process_set)
    size, well = head.tolist()
    there: Any = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(size, dtype=torch.uint8)
    broadcast_(there, root_rank, f"{name}.t", process_set)
    if not well:
        raise InvalidArgument(f"the object of rank {root_rank} cannot be pickled ({there.numpy().tobytes().decode()}); send what can be")
    return obj if rank() == root_rank else pickle.loads(there.numpy().tobytes())


def allgather_object(obj: Any, name: str | None = None) -> list[Any]:
    """Every rank's object, in rank order, on every rank. Two all-gathers.

    Raises InvalidArgument, on every rank, where one cannot be pickled.
    """
    name = name or "allgather_object"
    data, good = _dump(obj)
    table = allgather(torch.tensor([[len(data), good]], dtype=torch.int64), f"{name}.sz").tolist()
    everything = allgather(torch.frombuffer(bytearray(data), dtype=torch.uint8), f"{name}.t").numpy().tobytes()
    found, begin = [], 0
    for size, _ in table:
        found.append(everything[begin : begin + size])
        begin += size
    for peer, (_, well) in enumerate(table):
        if not well:
            raise InvalidArgument(
                f"the object of rank {peer} of {named().size} cannot be pickled ({found[peer].decode()}); send what can be"
            )
    return [pickle.loads(part) for part in found]


def _dump(x: Any) -> tuple[bytes, bool]:
    """The pickled object; or why it cannot be, and False."""
    dumps: Callable[[Any], bytes] = pickle.dumps
    if importlib.util.find_spec("cloudpickle") is not None:
        dumps = importlib.import_module("cloudpickle").dumps
    try:
        return dumps(x), True
    except Exception as error:  # whatever a class raises
        return f"{type(error).__name__}: {error}".encode(), False


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

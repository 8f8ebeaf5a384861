"""A batch sent from one rank to all: tensors as bytes, what holds them as JSON, no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..errors import InvalidArgument
from ..world import World
from .tensors import as_array

__all__ = ["send_batch"]

_PLAIN = (str, int, float, bool, type(None))
_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def send_batch(world: World, batch: Any, root: int) -> Any:
    """Rank `root`'s batch, on every rank, elsewhere with its tensors on the host: tensors in dicts, lists and tuples, strings, numbers.

    Collective; two broadcasts, and one for each tensor. Raises InvalidArgument, on every rank, for a batch of anything else.
    """
    tensors: list[torch.Tensor] = []
    wrong, text = "", b""
    if world.rank == root:
        try:
            text = json.dumps(_pack(batch, tensors)).encode()
        except InvalidArgument as error:
            wrong, text = "!", str(error).encode()
    size = world.broadcast(np.array([len(text), bool(wrong)], np.int64), root)
    header = np.frombuffer(text, np.uint8).copy() if world.rank == root else np.empty(int(size[0]), np.uint8)
    text = world.broadcast(header, root).tobytes()
    if size[1]:
        raise InvalidArgument(
            f"a rank has no batch at all, and rank {root}'s cannot stand in, for it holds {text.decode()}, not just tensors, strings and "
            "numbers in dicts, lists and tuples; give every rank at least one batch, or batches of these"
        )
    return _unpack(json.loads(text), world, root, iter(tensors) if world.rank == root else None)


def _pack(x: Any, tensors: list[torch.Tensor]) -> Any:
    """What describes `x` in JSON; its tensors are put into the list."""
    if isinstance(x, torch.Tensor):
        tensors.append(x.detach().cpu().contiguous())
        as_array(tensors[-1])
        return {"tensor": list(x.shape), "dtype": str(x.dtype)}
    if type(x) is dict and all(type(key) in _PLAIN for key in x):
        return {"dict": [[key, _pack(value, tensors)] for key, value in x.items()]}
    if type(x) in (list, tuple):
        return {type(x).__name__: [_pack(value, tensors) for value in x]}
    if type(x) in _PLAIN:
        return {"plain": x}
    raise InvalidArgument(f"a {type(x).__name__}")


def _unpack(told: dict[str, Any], world: World, root: int, tensors: Iterator[torch.Tensor] | None) -> Any:
    """The inverse; tensors come by broadcast, in the same order on every rank."""
    kind, value = next(iter(told.items()))
    if kind == "tensor":
        x = next(tensors) if tensors is not None else torch.empty(value, dtype=_DTYPES[told["dtype"]])
        world.broadcast(as_array(x), root)
        return x
    if kind == "dict":
        return {key: _unpack(inner, world, root, tensors) for key, inner in value}
    if kind in ("list", "tuple"):
        inside = [_unpack(inner, world, root, tensors) for inner in value]
        return inside if kind == "list" else tuple(inside)
    return value

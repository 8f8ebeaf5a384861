"""Which gradients are reduced together: the same on all ranks."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import InvalidArgument
from ..objects import broadcast_object
from ..process_sets import ProcessSet

__all__ = ["formed"]


def formed(names: dict[torch.nn.Parameter, str], groups: Any, process_set: ProcessSet) -> list[tuple[torch.nn.Parameter, ...]]:
    """`groups` as lists of parameters: a number of groups of about the same length, or lists; who is in none is alone. Collective.

    Raises InvalidArgument for what is neither, and for a parameter in two groups.
    """
    if isinstance(groups, list):
        _check([p for group in groups for p in group])
        return [tuple(p for p in group if p in names and p.requires_grad) for group in groups]
    if not isinstance(groups, int) or groups < 0:
        raise InvalidArgument("groups should be a non-negative integer or a list of list of torch.Tensor.")
    if groups == 0:
        return []
    order = [name for p, name in names.items() if p.requires_grad]
    first = (process_set.ranks or [0])[0]
    order = broadcast_object(order, first, "groups of parameters", process_set)
    by_name = {name: p for p, name in names.items()}
    length, more = divmod(len(order), groups)
    found, begin = [], 0
    for number in range(groups):
        end = begin + length + (number < more)
        if end > begin:
            found.append(tuple(by_name[name] for name in order[begin:end]))
        begin = end
    return found


def _check(members: list[Any]) -> None:
    if any(not isinstance(p, torch.Tensor) for p in members):
        raise InvalidArgument("groups must consist of torch.Tensor.")
    if len({id(p) for p in members}) != len(members):
        raise InvalidArgument("A parameter can only appear once in groups.")

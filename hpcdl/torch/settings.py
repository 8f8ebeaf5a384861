"""Settings that all ranks must give alike, compared before anything goes wrong because of them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import Any

import numpy as np

from ..errors import InvalidArgument, ranks_text
from ..world import World

__all__ = ["agree", "count"]


def count(name: str, value: Any) -> int:
    """A whole number that the user has given. Raises InvalidArgument for anything else."""
    try:
        return index(value)
    except TypeError:
        raise InvalidArgument(f"{name} must be a whole number, got {value!r}") from None


def agree(world: World, settings: Mapping[str, int], cures: Mapping[str, str] | None = None) -> None:
    """Raise InvalidArgument, the same on every rank, unless all ranks give the same whole numbers. Collective; one all-gather.

    >>> agree(World.solo(), {"samples": 5})
    """
    row = np.array([[value & 0x7FFF_FFFF_FFFF_FFFF if value >= 0 else -1 for value in map(int, settings.values())]], np.int64)
    table = world.allgather(row)
    for name, column in zip(settings, table.T, strict=True):
        if (column != column[0]).any():
            found = {int(value): np.flatnonzero(column == value).tolist() for value in column}
            told = ", ".join(f"{value} on {ranks_text(ranks)}" for value, ranks in found.items())
            cure = (cures or {}).get(name, "give the same on every rank")
            raise InvalidArgument(f"the ranks' loaders differ in {name}: {told}; {cure}")

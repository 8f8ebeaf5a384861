"""Which ranks make up the job: all, or those that `init` is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import start
from ..errors import InvalidArgument
from ..world import World

__all__ = ["world_of"]


def world_of(comm: Any) -> World:
    """The world of `comm`: ranks as MPI counts them, in this order; an mpi4py communicator; None or no ranks for all. Collective over them.

    Raises InvalidArgument where this process has begun with other ranks, or is not among these.
    """
    given = (list(comm) or None) if isinstance(comm, Iterable) else comm
    world = start.running()
    if world is None or given is None:
        return start.init(given)
    there, ranks = start.numbers(), start.numbers(given)
    if ranks == there:
        return world
    if not set(ranks) <= set(there):
        raise InvalidArgument(f"init(comm=ranks {list(ranks)}): this process has begun with the ranks {list(there)}, and knows no others")
    return world.group([there.index(rank) for rank in ranks])

"""One run from `init` to `shutdown`: the world, and the named operations of each process set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InvalidArgument
from ..world import World
from .named import Named
from .process_sets import ProcessSet
from .timeline import Timeline

__all__ = ["DYNAMIC", "Job"]

DYNAMIC = "HOROVOD_DYNAMIC_PROCESS_SETS"


class Job:
    """What `init` has made: the world, and the named operations of each process set."""

    def __init__(self, world: World) -> None:
        self.world, self.rank = world, world.rank
        self.timeline = Timeline()
        self._members: dict[int, tuple[int, ...]] = {0: tuple(range(world.size))}
        self._named: dict[int, Named] = {0: Named(world, self.timeline)}
        self._next = 1
        if world.rank == 0 and os.environ.get("HOROVOD_TIMELINE", "DYNAMIC") not in ("", "DYNAMIC"):
            self.timeline.start(os.environ["HOROVOD_TIMELINE"])

    def named(self, process_set: ProcessSet) -> Named:
        """The operations of a set. Raises InvalidArgument for one that is not in use, or that this rank does not belong to."""
        number = process_set.process_set_id
        members = self._members.get(-1 if number is None else number)
        if number is None or members is None:
            raise InvalidArgument("Process set provided does not exist, or has not been registered.")
        if number not in self._named:
            raise InvalidArgument(f"rank {self.rank} is not part of provided process set {number} of ranks {list(members)}")
        return self._named[number]

    def members(self, number: int) -> tuple[int, ...]:
        """The ranks of a set. Raises InvalidArgument for one that is not in use."""
        if number not in self._members:
            raise InvalidArgument("Process set does not exist or has not been registered.")
        return self._members[number]

    def add(self, ranks: Sequence[int]) -> int | None:
        """The number of a new set; None if there is one of the same ranks. Collective over the job."""
        members = tuple(sorted(ranks))
        if not members or len(set(members)) != len(members) or not all(0 <= rank < self.world.size for rank in members):
            raise InvalidArgument(f"a process set needs different ranks within 0 to {self.world.size - 1}, got {list(ranks)}")
        self._named[0].agree("new process set", members)
        if members in self._members.values():
            return None
        number, self._next = self._next, self._next + 1
        self._members[number] = members
        if self.rank in members:
            self._named[number] = Named(self.world.group(members), self.timeline)
        return number

    def remove(self, number: int) -> bool:
        """Take a set out of use; whether there was one. Collective over the job."""
        self._named[0].agree("end of process set", [number])
        found = self._members.pop(number, None)
        if number in self._named:
            named = self._named.pop(number)
            named.close()
            named.world.close()
        return found is not None

    def add_split(self, comm: Any) -> tuple[int | None, list[int]]:
        """New sets, one for each of the communicators that the ranks give (as of Split); the number and ranks of this rank's own.

        Collective over the job. The number is None if there is a set of the same ranks.
        """
        leader = int(comm.bcast(self.rank, 0))
        leaders = self.world.allgather(np.array([leader], np.int64)).tolist()
        number, mine = None, [rank for rank, other in enumerate(leaders) if other == leader]
        for one in sorted(set(leaders)):
            found = self.add([rank for rank, other in enumerate(leaders) if other == one])
            number = found if one == leader else number
        return number, mine

    def check_dynamic(self, what: str) -> None:
        """Raise InvalidArgument unless sets may come and go."""
        if os.environ.get(DYNAMIC, "0") in ("", "0"):
            raise InvalidArgument(f"Set {DYNAMIC}=1 to allow {what} process sets after Horovod initialization.")

    def close(self) -> None:
        """Leave all sets; collective."""
        self.timeline.stop()
        for number in sorted(self._named, reverse=True):
            self._named[number].close()
            if number:
                self._named[number].world.close()

    def usable(self) -> bool:
        """Whether nothing has made the ranks unable to go on together."""
        groups = [group for named in self._named.values() for group in (named.table, named.data)]
        return self.world.broken is None and all(group.broken is None for group in groups)

"""The collectives that a user can name: each schedule, the MPI library's own calls, and `auto`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ..errors import InvalidArgument, UnknownName
from ..registry import Registry
from . import direct, halving_doubling, ring, tree
from .execute import Body, execute
from .native import Native
from .nccl import REACHES, Nccl
from .schedule import Schedule
from .shared_memory import SharedMemory
from .task import Task
from .two_level import TwoLevel

__all__ = ["Collective", "Scheduled", "by_name", "check_name", "collectives", "schedules"]


class Collective(Protocol):
    """A way to reduce an array over all ranks of a group, bitwise equal on all of them."""

    @property
    def name(self) -> str:
        """As the registry knows it."""
        ...

    def allreduce(self, task: Task) -> Body:
        """Reduce `task.x` in place; yields what it waits for."""
        ...


@dataclass(frozen=True)
class Scheduled:
    """A schedule as a collective, with pieces of `segment` bytes: ``ring:segment=49152``."""

    schedule: Schedule
    segment: int = 0  # see Task; 0 leaves it to the task

    def __post_init__(self) -> None:
        if not isinstance(self.segment, int) or self.segment < 0:
            raise InvalidArgument(f"{self.schedule.name}: segment must be a number of bytes, 0 or more, got {self.segment!r}")

    @property
    def name(self) -> str:
        return self.schedule.name

    def allreduce(self, task: Task) -> Body:
        task.segment = self.segment or task.segment
        return execute(self.schedule, task)


#: Every schedule, to be proved by the tests.
schedules: tuple[Schedule, ...] = tuple(getattr(file, name) for file in (ring, halving_doubling, tree, direct) for name in file.__all__)

collectives: Registry[Collective] = Registry("collective")
for _schedule in schedules:
    if _schedule.kind == "allreduce":
        collectives.register(_schedule.name, lambda segment=0, schedule=_schedule: Scheduled(schedule, segment))
collectives.register("shared-memory", lambda: SharedMemory(otherwise=Scheduled(ring.ALL_REDUCE)))
collectives.register(
    "two-level", lambda segment=0: TwoLevel(inner=collectives.get("shared-memory"), outer=Scheduled(ring.ALL_REDUCE, segment))
)
collectives.register("native", lambda: Native(otherwise=Scheduled(tree.ALL_REDUCE)))
collectives.register("nccl", lambda reach=REACHES[0]: Nccl(_otherwise, reach))


def _otherwise(name: str) -> Callable[[Task], Body]:
    return by_name(name).allreduce


def check_name(name: str) -> None:
    """Raise UnknownName unless `name` is a collective or ``auto``."""
    if name != "auto" and name.partition(":")[0] not in collectives:
        raise UnknownName(f"unknown collective {name!r}; known: {', '.join(sorted(['auto', *collectives]))}")


@lru_cache(maxsize=256)
def by_name(name: str) -> Collective:
    """The collective of that name. Raises UnknownName."""
    check_name(name)
    return collectives.get(name)

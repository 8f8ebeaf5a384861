"""What `auto` follows: a small table from size to collective, the same on every rank. Never picks a lossy codec."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..transport.base import Transport
from .collective import collectives
from .costs import Costs, Layout
from .model import Way as Choice
from .model import price, segment, ways

__all__ = ["KINDS", "Choice", "Plan", "make", "plan_for", "usable"]

#: own: an array of the user's; window: one in shared memory; without MPI: where the library's own call cannot be used, because a codec or
#: an operation that MPI lacks is asked for; on a device: where neither it nor shared memory can, and NCCL, which `auto` prefers there, is
#: not wanted or cannot be.
KINDS = ("own", "window", "own, without MPI", "window, without MPI", "on a device")
_SIZES = tuple(1 << power for power in range(8, 31))  # bytes at which candidates are compared
_WORTH, _SURE = 0.85, 0.6  # what is less likely to be the fastest must save so much, or the table would follow the noise of a busy machine
_SHARED = {"shared-memory", "two-level"}

Row = tuple[int, Choice]  # up to so many bytes


@dataclass(frozen=True)
class Plan:
    """Which collective for which size. `tables`: for each of `KINDS`, rows of (up to so many bytes, choice); the last row has no limit.

    measured: whether it was made from measured costs. segment: for a collective that the user has named.
    """

    measured: bool
    segment: int
    tables: tuple[tuple[Row, ...], ...]
    _limits: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_limits", tuple(tuple(limit for limit, _ in rows[:-1]) for rows in self.tables))

    def choose(self, nbytes: int, exact: bool = True, windowed: bool = False, host: bool = True) -> Choice:
        """The choice for an array of `nbytes` (as sent without a codec). exact: whether MPI's own call may be taken. Half a microsecond."""
        kind = windowed + 2 * (not exact) if host else 4
        return self.tables[kind][bisect_left(self._limits[kind], nbytes)][1]

    def to_lists(self) -> list[Any]:
        """As JSON can hold it."""
        return [self.measured, self.segment, self.tables]

    @staticmethod
    def from_lists(found: Any) -> Plan:
        """The plan that `to_lists` wrote."""
        measured, piece, tables = found
        return Plan(measured, piece, tuple(tuple((limit, Choice(*choice)) for limit, choice in rows) for rows in tables))


@lru_cache(maxsize=32)
def make(costs: Costs, layout: Layout, names: tuple[str, ...]) -> Plan:
    """The plan for a group of that layout with the collectives that it has the means for. Milliseconds, then remembered.

    The same arguments give the same plan in every process: groups need not agree on it.
    """
    others = tuple(name for name in names if name != "native")
    bare = tuple(name for name in others if name not in _SHARED)
    kinds = ((names, False), (names, True), (others, False), (others, True), (bare, False))
    return Plan(costs.measured, segment(costs, layout), tuple(_rows(costs, layout, *kind) for kind in kinds))


def plan_for(costs: Costs, transport: Transport, shared: bool) -> Plan:
    """The plan for the ranks of a transport: a pure function of what is the same on all of them."""
    there = usable(transport, shared)
    return make(costs, Layout(transport.nodes), tuple(name for name in costs.names if name in there))


def usable(transport: Transport, shared: bool) -> tuple[str, ...]:
    """The collectives that are registered and find here what they need. shared: whether ranks of a node share memory."""
    lacking = {"nccl"} | ({"native"} if transport.native is None else set())  # arrays on the host, which costs are of, do not go by NCCL
    return tuple(name for name in collectives if name not in (lacking if shared else lacking | _SHARED))


def _rows(costs: Costs, layout: Layout, names: tuple[str, ...], windowed: bool) -> tuple[Row, ...]:
    candidates = ways(costs, layout, names)
    rows: list[Row] = []
    for nbytes in _SIZES:
        prices = {way: price(way, nbytes, layout, costs, windowed) for way in candidates}
        best = min(prices.values())
        chosen = next(way for way in candidates if _margin(way) * prices[way] <= best)  # the most likely come first
        if rows and rows[-1][1] == chosen:
            rows.pop()
        rows.append((nbytes, chosen))
    return tuple(rows)


def _margin(way: Choice) -> float:
    return _SURE if way.collective in _SHARED else _WORTH

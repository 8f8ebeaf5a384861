"""Runs a body on n ranks of the MPI world that this process is a rank of."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from .lane import Lane
from .outcome import Elsewhere, Outcome, attempt, lived, settle
from .watchdog import RankWatchdog


def make_world(n: int, rank: int) -> Any:
    """A world of ranks 0 to n-1, None elsewhere. Every rank calls it: `init` is collective."""
    import hpcdl

    world = hpcdl.init()
    return world.group(range(n)) if rank < n else None


class InMPI:
    """`ranks(n, body, *args, **kw)` inside the ranks: 0 to n-1 run the body, all learn how it ended and go on alike.

    Returns the values in rank order if all of them can be pickled, else None.
    """

    def __init__(self, lane: Lane, watchdog: RankWatchdog) -> None:
        self.lane = lane
        self.watchdog = watchdog

    def __call__(self, n: int, body: Callable[..., Any], *args: Any, **kw: Any) -> list[Any] | None:
        __tracebackhide__ = True
        if n > self.lane.size:
            pytest.skip(f"{n} ranks; the MPI world of this run has {self.lane.size}")

        def call() -> Any:
            __tracebackhide__ = True
            world = make_world(n, self.lane.rank)
            return None if world is None else lived(world, body, args, kw)

        mine = attempt(self.lane.rank, call)
        if mine.error is not None:
            self.watchdog.note(f"has ended its body: {mine.line}\n{mine.text}")
        everyone: list[Outcome] = self._together("body", _packed(mine))
        outcomes = everyone[:n] + [outcome for outcome in everyone[n:] if outcome.state != "passed"]
        settle(outcomes, n)
        if any(outcome.value is None for outcome in outcomes):
            return None
        return [pickle.loads(outcome.value) for outcome in outcomes]

    def share(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        return self._together("share", value)[0]

    def _together(self, where: str, note: Any) -> list[Any]:
        """Every rank's note; raises if a rank is elsewhere in the test, most likely at its end."""
        __tracebackhide__ = True
        notes = self.lane.exchange((where, note))
        astray = [rank for rank, (place, _) in enumerate(notes) if place != where]
        if astray:
            theirs = notes[astray[0]][0]
            raise Elsewhere(f"rank {astray[0]} of {self.lane.size} is elsewhere in the test: at its {theirs}, not at this {where}")
        return [note for _, note in notes]


def _packed(outcome: Outcome) -> Outcome:
    """The outcome as it travels: the value pickled (None if it cannot be), the exception left behind."""
    try:
        value = pickle.dumps(outcome.value)
    except Exception:  # pickle raises many kinds
        value = None
    return Outcome(outcome.rank, outcome.state, outcome.line, outcome.text, outcome.echo, outcome.moment, value)

"""Timing side by side: everything that is compared is called in turn, so that noise of the machine meets all alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST", "interleave", "one_round", "rounds", "slowest"]

Key = TypeVar("Key", bound=Hashable)
MOST, LEAST = 300, 5  # repetitions


def interleave(actions: Mapping[Key, Callable[[], None]], repeat: int, calls: Mapping[Key, int] | None = None) -> dict[Key, list[float]]:
    """Seconds per call of each action, `repeat` times, in turn.

    calls: how many calls to make in a row, where one is too short to time.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in actions}
    for _ in range(repeat):
        for key, action in actions.items():
            times = calls[key] if calls else 1
            begin = perf_counter()
            for _ in range(times):
                action()
            seconds[key].append((perf_counter() - begin) / times)
    return seconds


def one_round(
    actions: Mapping[Key, Callable[[], Any]], barrier: Callable[[], Any], before: Callable[[Key], Any] | None = None, first: int = 0
) -> list[float]:
    """Seconds of each action on this rank, once: `before(key)`, barrier, action. Begins with action number `first`.

    Why another first one each time: what comes before an action (whose data is in the cache, who is still busy) shall not favour one.
    """
    keys = list(actions)
    seconds = [0.0] * len(keys)
    for number in range(len(keys)):
        place = (first + number) % len(keys)
        if before is not None:
            before(keys[place])
        barrier()
        begin = perf_counter()
        actions[keys[place]]()
        seconds[place] = perf_counter() - begin
    return seconds


def rounds(comm: Any, once: Callable[[int], list[float]], repeat: int | None, seconds: float) -> NDArray[np.float64]:
    """Seconds of the slowest rank, a row a round: `repeat` rounds, or as many as fit into `seconds` (5 to 300). The same on every rank."""
    once(0)  # the first of all touches fresh memory and opens connections
    begin = perf_counter()
    once(0)
    wanted = repeat or max(LEAST, min(MOST, int(seconds / (perf_counter() - begin))))
    wanted = comm.bcast(wanted)  # rank 0 decides
    return slowest(comm, np.array([once(number) for number in range(wanted)]))


def slowest(comm: Any, mine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest of all ranks, element by element: a collective is done when its slowest rank is."""
    from mpi4py import MPI

    found = np.empty_like(mine)
    comm.Allreduce(mine, found, MPI.MAX)
    return found

"""How many samples stand behind this rank's present batch: what a loader tells, and the weighted mean of gradients asks.

Why between the two and not an argument: the training loop stays what it is on one process.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

from ..world import World

__all__ = ["announce", "current"]


class Samples(NamedTuple):
    """Of the present batch: this rank's, None where nobody knows; and those of all ranks together, None where they are to be asked."""

    mine: float | None = None
    total: float | None = None


_present: WeakKeyDictionary[World, Samples] = WeakKeyDictionary()


def announce(world: World, mine: float | None, total: float | None = None) -> None:
    """From now on this rank's batch has so many samples; 0: it stands in for no data. None: nobody knows.

    total: those of all ranks together, if that is known; it saves an exchange in each step. All ranks announce, or none.
    """
    _present[world] = Samples(mine, total)


def current(world: World) -> Samples:
    """The samples of the present batch."""
    return _present.get(world, Samples())

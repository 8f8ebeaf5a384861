"""How many samples stand behind this rank's present batch: what a loader tells, and the weighted mean of gradients asks.

Why between the two and not an argument: the training loop stays what it is on one process.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from ..world import World

__all__ = ["announce", "current"]

_present: WeakKeyDictionary[World, float] = WeakKeyDictionary()


def announce(world: World, samples: float | None) -> None:
    """From now on this rank's batch has so many samples; 0: it stands in for no data. None: nobody knows."""
    if samples is None:
        _present.pop(world, None)
    else:
        _present[world] = samples


def current(world: World) -> float | None:
    """The samples of this rank's present batch; None where no loader of ours has given it."""
    return _present.get(world)

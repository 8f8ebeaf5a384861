"""How many samples stand behind this rank's present batch: what a loader tells, and the weighted mean of gradients asks.

Why between the two and not an argument: the training loop stays what it is on one process.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

from ..errors import InvalidArgument
from ..world import World

__all__ = ["Samples", "announce", "current", "leave", "withdraw"]


class Samples(NamedTuple):
    """Of the present batch: this rank's, None where nobody knows; and those of all ranks together, None where they are to be asked."""

    mine: float | None = None
    total: float | None = None

    def share(self, ranks: int) -> float:
        """This rank's part of the whole batch, 0 to 1. Where the whole is not known: a number in proportion to it."""
        if self.mine is None:
            return 1 / ranks
        if self.total is None:
            return self.mine
        return self.mine / self.total if self.total else 0.0


class _Present(NamedTuple):
    samples: Samples
    under_way: bool = True  # False: its loop was left, and its last batch counts until somebody else announces one


_present: WeakKeyDictionary[World, dict[object, _Present]] = WeakKeyDictionary()  # by whose batch it is; the newest comes last


def announce(world: World, mine: float | None, total: float | None = None, source: object = None) -> None:
    """From now on this rank's batch has so many samples; 0: it stands in for no data. None: nobody knows.

    total: those of all ranks together, if that is known; it saves an exchange in each step. All ranks announce, or none. source: whose
    batch it is; several may be under way, a loop within another's.
    """
    others = {other: present for other, present in _present.get(world, {}).items() if present.under_way and other is not source}
    _present[world] = others if mine is None else {**others, source: _Present(Samples(mine, total))}


def leave(world: World, source: object) -> None:
    """That loop was left with a batch in hand (``break``, ``next(iter(loader))``): it counts until the next batch of anybody."""
    found = _present.get(world)
    if found is not None and source in found:
        found[source] = found[source]._replace(under_way=False)


def withdraw(world: World, source: object) -> None:
    """That loop has come to its end."""
    _present.get(world, {}).pop(source, None)


def current(world: World) -> Samples:
    """The samples of the present batch. Raises InvalidArgument where several loaders' batches are at hand that are cut differently."""
    found = [present.samples for present in _present.get(world, {}).values()]
    if len({samples.share(world.size) for samples in found}) > 1:
        raise InvalidArgument(
            f"rank {world.rank} of {world.size}: the batches of {len(found)} loaders are at hand, of which this rank has "
            f"{' and '.join(f'{s.mine:g} of {s.total:g} samples' for s in found if s.mine is not None and s.total)}, so it is not known by "
            "which the gradients are to be weighted; cure: batch sizes that the number of ranks divides, with drop_last=True, or "
            "train=False for the loader whose samples do not count"
        )
    return found[-1] if found else Samples()

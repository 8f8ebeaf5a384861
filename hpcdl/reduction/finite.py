"""Which gradients hold NaN or infinity: noted bucket by bucket, and told at the end of the step, on all ranks alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..arrays import Array, Arrays
from ..collectives import moves
from ..collectives.group import Group
from ..errors import NonFinite
from .aside import settle

__all__ = ["Finite"]


class Finite:
    """A flag for each of `views`, where they live. The device is looked at once in a step, when its work is nearly over anyway."""

    def __init__(self, library: Arrays, views: Sequence[Array]) -> None:
        self._library, self._views = library, views
        self._flags = library.xp.ones(len(views), "?")
        self._host = library.pinned(len(views)).view("?")

    def note(self, members: Iterable[int], counts: bool) -> None:
        """Look at the gradients of a bucket, before it is reduced. counts: whether this rank has data; without, they may hold anything."""
        for i in sorted(members):
            if counts:
                self._library.note_finite(self._views[i], self._flags[i, ...])
            else:
                self._flags[i] = True

    def check(self, group: Group, names: Sequence[str]) -> None:
        """Raise NonFinite, the same on every rank, where a gradient of any rank holds NaN or infinity. Collective; waits for the device."""
        if self._library.on_host:
            self._host[...] = self._flags
        else:
            self._library.to_host(self._flags, self._host)
            settle(self._library, group.engine)
        bad = np.flatnonzero(~self._host)
        everyone = moves.all_gather(group, np.array([min(bad, default=-1)], np.int64)).wait()
        told = [f"rank {rank} of {len(everyone)} in the gradient of {names[i]!r}" for rank, i in enumerate(everyone) if i >= 0]
        if told:
            raise NonFinite(f"NaN or infinity on {'; '.join(told)}; cure: a lower learning rate, clipping, or loss scaling")

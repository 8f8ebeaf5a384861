"""The step of a reducer that is under way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..arrays import Array, Arrays
from ..collectives import moves
from ..collectives.group import Group
from ..collectives.operation import Operation
from ..collectives.task import Scale
from ..errors import NonFinite

__all__ = ["Step"]


@dataclass
class Step:
    """What a reducer knows of the step under way."""

    running: list[Operation | None] = field(default_factory=list)  # one for each bucket that has started, in order; None: done at once
    scale: Scale | None = None
    weight: float = 1.0
    announced: bool = False  # by begin()
    alike: bool = False  # all ranks have the same weight
    flushed: bool = False
    hurry: bool = False  # the caller has nothing to do any more but to wait
    bad: list[int] = field(default_factory=list)  # parameters with NaN or infinity in this rank's gradient

    def note_non_finite(self, members: Iterable[int], views: Sequence[Array], library: Arrays) -> None:
        """Look at the gradients of a bucket."""
        if self.weight:
            self.bad += [i for i in sorted(members) if not library.all_finite(views[i])]

    def raise_non_finite(self, group: Group, names: Sequence[str]) -> None:
        """Raise NonFinite, the same on every rank, where one of any rank holds NaN or infinity. Collective."""
        everyone = moves.all_gather(group, np.array([min(self.bad, default=-1)], np.int64)).wait()
        told = [f"rank {rank} of {len(everyone)} in the gradient of {names[i]!r}" for rank, i in enumerate(everyone) if i >= 0]
        if told:
            raise NonFinite(f"NaN or infinity on {'; '.join(told)}; cure: a lower learning rate, clipping, or loss scaling")

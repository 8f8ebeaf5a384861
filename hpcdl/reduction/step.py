"""The step of a reducer that is under way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..collectives.calls import Constant
from ..collectives.operation import Operation
from ..collectives.ops import Op
from ..collectives.task import Scale
from ..errors import InvalidArgument

__all__ = ["Step"]


@dataclass
class Step:
    """What a reducer knows of the step under way. place: this rank, for errors. op: of the reducer."""

    place: str
    op: Op
    running: list[Operation | None] = field(default_factory=list)  # one for each bucket that has started, in order; None: done at once
    scale: Scale | None = None
    weight: float = 1.0
    announced: bool = False  # by begin()
    alike: bool = False  # all ranks have the same weight
    flushed: bool = False
    hurry: bool = False  # the caller has nothing to do any more but to wait

    def announce(self, weight: float | None, total: float | None) -> None:
        """What `begin` was told."""
        if weight is None:
            self.alike = True
        else:
            self.weight = self.checked(weight)
            if total is not None and self.op.averages:
                if not self.checked(total) >= weight:
                    raise InvalidArgument(f"{self.place}: the weight {weight:g} is more than that of all ranks together, {total:g}")
                self.scale = Constant(1 / total if total else 0.0)
        self.announced = True

    def take(self, weight: float) -> None:
        """What `wait` was told."""
        weight = self.checked(weight)
        if (self.running or self.announced) and weight != self.weight:
            raise InvalidArgument(
                f"{self.place}: wait(weight={weight:g}) after buckets were reduced with weight {self.weight:g}; call "
                f"begin({weight:g}) before the first ready(), or give wait() a weight from the first step on"
            )
        self.weight = weight

    def checked(self, weight: float) -> float:
        """`weight`, if it can be one."""
        if not self.op.averages and weight != 1:
            raise InvalidArgument(f"{self.place}: a weight is for op='mean', not {self.op.name!r}")
        if not (np.isfinite(weight) and weight >= 0):
            raise InvalidArgument(f"{self.place}: weight must be finite and not negative, got {weight}")
        return float(weight)

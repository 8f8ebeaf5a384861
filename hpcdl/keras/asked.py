"""What Keras was asked beside the data. It hands a data set of ours on without a word of it, so it is read where Keras keeps it."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from types import FrameType
from typing import Any, NamedTuple

from ..errors import InvalidArgument

__all__ = ["Call", "asked", "fitting", "passes"]

_CALLS = ("fit", "evaluate", "predict")
_OF_SHARD = ("y", "sample_weight", "class_weight")


class Call(NamedTuple):
    """A `fit`, `evaluate` or `predict` that is under way: its name, its arguments and variables."""

    name: str
    values: Mapping[str, Any]

    def check(self) -> None:
        """Raise InvalidArgument for what Keras would ignore without a word."""
        lost = [name for name in _OF_SHARD if self.values.get(name) is not None]
        if lost:
            raise InvalidArgument(
                f"{self.name}() does not apply {' and '.join(lost)} to shared data; give it to shard() instead: shard(…, {lost[0]}=…)"
            )

    @property
    def epoch(self) -> int | None:
        """The number of fit's epoch that begins; None while none does, as when Keras looks at a batch for its shapes."""
        number: int | None = self.values.get("epoch") if self.name == "fit" else None
        return number

    @property
    def first(self) -> bool:
        """Whether the epoch that begins is fit's first."""
        return bool(self.epoch == self.values.get("initial_epoch"))

    def left(self, batches: int) -> None:
        """Tell Keras how many batches the data have left. Beyond their end TensorFlow would count a step that is none."""
        self.values["epoch_iterator"]._num_batches = batches


def asked(data: Any) -> Call | None:
    """The call of Keras's that reads `data` just now; None in a loop of one's own.

    Why by the stack: a data adapter is told neither class_weight nor the epoch, nor does it know the model.
    """
    call = _innermost(_CALLS)
    return call if call is not None and call.values.get("x") is data else None


def fitting() -> Call | None:
    """The `fit` that calls a callback just now; None in a loop of one's own. A callback is told neither the data nor how they are read."""
    return _innermost(("fit",))


def _innermost(names: Collection[str]) -> Call | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in names and str(frame.f_globals.get("__name__")).startswith("keras."):
            return Call(frame.f_code.co_name, frame.f_locals)
        frame = frame.f_back
    return None


def passes(epoch: int, batches: int, steps_per_epoch: int | None) -> tuple[int, int]:
    """How often `fit` is through the data when `epoch` begins, and the batch with which it goes on.

    Keras ends an epoch where the data end, so the last one of a pass may be shorter.

    >>> passes(2, 9, None), passes(2, 9, 4), passes(4, 9, 4)
    ((2, 0), (0, 8), (1, 4))
    """
    steps = steps_per_epoch or batches
    through, begun = divmod(epoch, math.ceil(batches / steps))
    return through, begun * steps

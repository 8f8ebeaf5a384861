"""Learning rates that change: the warm-up that large batches need, and steps by epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from ..errors import InvalidArgument
from .backends import current
from .start import default_world

__all__ = ["LearningRateSchedule", "LearningRateWarmup", "first_rate", "note_rate", "rate", "warmed"]


_FIRST = "_hpcdl_first_rate"  # under this name an optimizer carries its first rate, and that which it was given last


def rate(optimizer: Any) -> float:
    """The learning rate by now."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def first_rate(optimizer: Any) -> float:
    """The learning rate before it was changed here; what somebody else has changed since is a new first one."""
    now = rate(optimizer)
    first, given = optimizer.__dict__.get(_FIRST, (now, now))
    return float(first if given == now else now)


def note_rate(optimizer: Any, first: float) -> None:
    """The learning rate by now comes from `first`."""
    optimizer.__dict__[_FIRST] = first, rate(optimizer)


class LearningRateSchedule(keras.callbacks.Callback):
    """The rate that the optimizer had at first, times ``multiplier(epoch)``, from start_epoch to before end_epoch.

    At first: before callbacks of this kind changed it, in an earlier `fit` too. A model that was saved meanwhile does not know; give
    initial_lr then.

    multiplier: a function, or a number for all of these epochs. staircase: set at the beginning of each epoch; without it at each batch,
    for a fractional epoch, which needs steps_per_epoch where `fit` does not know how many batches an epoch has.

    There is no momentum correction, as Adam and its kin need none; for SGD with momentum choose a warm-up long enough. Raises
    InvalidArgument where the optimizer follows a schedule of Keras's own.
    """

    def __init__(
        self,
        multiplier: Callable[[float], float] | float,
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        steps_per_epoch: int | None = None,
        initial_lr: float | None = None,
    ) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.start_epoch, self.end_epoch, self.staircase = start_epoch, end_epoch, staircase
        self.initial_lr = initial_lr
        self._steps, self._epoch = steps_per_epoch, 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the rate that the optimizer had at first, as the one that is multiplied."""
        optimizer = self.model.optimizer
        if isinstance(getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule):
            raise InvalidArgument("the optimizer follows a learning rate schedule of its own; give it a number, or leave this callback out")
        if self.initial_lr is None:
            self.initial_lr = first_rate(optimizer)
        self._steps = self._steps or (self.params or {}).get("steps")
        if not self.staircase and not self._steps:
            raise InvalidArgument("how many batches an epoch has is not known; pass steps_per_epoch=…, or staircase=True")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the rate of the epoch."""
        self._epoch = epoch
        if self.staircase:
            self._set(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rate of the batch."""
        if not self.staircase:
            self._set(self._epoch + batch / (self._steps or 1))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell the rate, as ``learning_rate``."""
        if logs is not None:
            logs["learning_rate"] = rate(self.model.optimizer)

    def _set(self, epoch: float) -> None:
        if epoch < self.start_epoch or (self.end_epoch is not None and epoch >= self.end_epoch):
            return
        current().sync(self.model)
        factor = self.multiplier(epoch) if callable(self.multiplier) else self.multiplier
        self.model.optimizer.learning_rate = (self.initial_lr or 0.0) * factor
        note_rate(self.model.optimizer, self.initial_lr or 0.0)


class LearningRateWarmup(LearningRateSchedule):
    """From 1/n of the optimizer's rate up to the whole of it, batch by batch over the first `epochs`; n: the number of ranks.

    As in Goyal et al., "Accurate, Large Minibatch SGD", section 2.2: scale the rate by n, and begin with that of one process.
    """

    def __init__(
        self, epochs: float = 5, size: int | None = None, steps_per_epoch: int | None = None, initial_lr: float | None = None
    ) -> None:
        ranks = default_world().size if size is None else size
        if epochs <= 0:
            raise InvalidArgument(f"epochs must be more than 0, got {epochs}")
        super().__init__(
            lambda epoch: warmed(epoch + 1 / (self._steps or 1), epochs, ranks),
            end_epoch=-int(-epochs // 1),
            staircase=False,
            steps_per_epoch=steps_per_epoch,
            initial_lr=initial_lr,
        )


def warmed(epoch: float, epochs: float, ranks: int) -> float:
    """The part of the whole rate at `epoch` of a warm-up over `epochs`.

    >>> warmed(0, 5, 4), warmed(2.5, 5, 4), warmed(6, 5, 4)
    (0.25, 0.625, 1.0)
    """
    return 1 / ranks + (1 - 1 / ranks) * min(1.0, epoch / epochs)

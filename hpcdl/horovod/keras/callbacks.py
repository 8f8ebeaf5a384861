"""Horovod's callbacks for Keras, on those of `hpcdl.keras`. `device`: Horovod's, does nothing here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from ...errors import InvalidArgument
from ...keras.attach import attach, built
from ...keras.backends import current
from ...keras.callbacks import AverageMetrics
from ...keras.optimizer import STATE, is_distributed
from ...keras.rates import LearningRateSchedule, rate, warmed
from ...keras.replicas import broadcast, check_rates
from ..basics import named, rank, size

__all__ = [
    "BestModelCheckpoint",
    "BroadcastGlobalVariablesCallback",
    "LearningRateScheduleCallback",
    "LearningRateWarmupCallback",
    "MetricAverageCallback",
]


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Rank `root_rank`'s weights and optimizer state for all, before the first step. local_variables: what stays each rank's own."""

    def __init__(self, root_rank: int, device: str = "", local_variables: Any = None) -> None:
        super().__init__()
        self.root_rank, self._done = root_rank, False
        self._own: Sequence[Any] = list(local_variables) if isinstance(local_variables, list | tuple) else [local_variables]

    def register_local_var(self, var: Any) -> None:
        """`var` is not broadcast."""
        self._own = [*self._own, var]

    def set_model(self, model: Any) -> None:
        """Called by Keras. Where XLA compiles the train step, this makes room for the reduction; see `hpcdl.keras.attach`."""
        super().set_model(model)
        if is_distributed(model.optimizer):
            attach(model, named().world, self.root_rank, self._own)

    def on_train_begin(self, logs: Any = None) -> None:
        """All variables are there, or come with the first batch."""
        self._done = False
        if built(self.model):
            self._broadcast()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Raises Mismatch, on every rank of the optimizer's process set, where a callback made their learning rates differ."""
        if is_distributed(self.model.optimizer):
            state = self.model.optimizer.__dict__[STATE]
            if not getattr(state, "alone", False):
                check_rates(state.world, self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """After the first batch all variables are there."""
        if not self._done:
            self._broadcast()

    def _broadcast(self) -> None:
        self._done = True
        current().sync(self.model)
        broadcast(named().world, self.model, self.root_rank, self._own)


class MetricAverageCallback(AverageMetrics):
    """At the end of each epoch all numbers in ``logs`` are of all ranks; put it before callbacks that read them.

    The model's metrics are those of all ranks' samples; what other callbacks have added is averaged.
    """

    def __init__(self, device: str = "") -> None:
        super().__init__(world=named().world)


class LearningRateScheduleCallback(LearningRateSchedule):
    """The rate is ``initial_lr * multiplier(epoch)`` from start_epoch to before end_epoch.

    multiplier: a function; of a number, its power by the epochs since start_epoch. staircase: set at the beginning of each epoch, else at
    each batch. momentum_correction: what momentum has gathered is scaled as the rate is (Goyal et al., "Accurate, Large Minibatch SGD",
    section 3).
    """

    def __init__(
        self,
        initial_lr: float,
        multiplier: Callable[[float], float] | float,
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
    ) -> None:
        if initial_lr is None:
            raise InvalidArgument("Parameter `initial_lr` is required")
        power = multiplier if callable(multiplier) else lambda epoch: multiplier ** (epoch - start_epoch)
        super().__init__(power, start_epoch, end_epoch, staircase, steps_per_epoch, initial_lr)
        self.momentum_correction = momentum_correction

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell the rate, as ``lr``."""
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs["lr"] = logs["learning_rate"]

    def _set(self, epoch: float) -> None:
        old = rate(self.model.optimizer)
        super()._set(epoch)
        new = rate(self.model.optimizer)
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        momentum: Any = getattr(optimizer, "momentum", None)
        if self.momentum_correction and momentum and old and new != old:
            gathered: Any = getattr(optimizer, "momentums", None) or getattr(optimizer, "_momentums", None)
            for v in gathered or ():
                v.assign(v.value * (new / old))


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """From ``initial_lr / size`` up to `initial_lr`, batch by batch over the first `warmup_epochs`.

    verbose: rank 0 tells when it is over.
    """

    def __init__(
        self,
        initial_lr: float,
        warmup_epochs: float = 5,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
        verbose: int = 0,
    ) -> None:
        def ramp(epoch: float) -> float:
            return warmed(epoch + 1 / (self._steps or 1), warmup_epochs, size())

        end = -int(-warmup_epochs // 1)
        super().__init__(initial_lr, ramp, 0, end, False, momentum_correction, steps_per_epoch)
        self.verbose = verbose

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell that it is over."""
        super().on_epoch_end(epoch, logs)
        if epoch == (self.end_epoch or 0) - 1 and self.verbose > 0 and rank() == 0:
            print(f"\nEpoch {epoch + 1}: finished gradual learning rate warmup to {rate(self.model.optimizer):g}.")


class BestModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Keras's ModelCheckpoint of the best model, whose `filepath` is set before `fit`."""

    def __init__(
        self,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Any = "epoch",
    ) -> None:
        unset = "unset.weights.h5" if save_weights_only else "unset.keras"
        super().__init__(unset, monitor, verbose, True, save_weights_only, mode, save_freq)
        self.filepath: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Raises InvalidArgument where nobody has said where to."""
        if self.filepath is None:
            raise InvalidArgument("BestModelCheckpoint does not know where to write; set callback.filepath = 'best.keras' before fit")
        super().on_train_begin(logs)

"""What `fit` is to do besides: replicas that begin alike, logs of all ranks, decisions that all take alike."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ..errors import InvalidArgument
from ..world import World
from .attach import attach
from .backup import BackupAndRestore
from .metrics import averaged, mean_of_others
from .replicas import check_rates, mean_statistics
from .start import default_world

__all__ = ["AverageMetrics", "BroadcastVariables", "EarlyStopping", "OnRank0", "TerminateOnNaN"]

#: What changes the model or the training, and what does the same on all ranks.
_FOR_ALL = {
    keras.callbacks.BackupAndRestore: "hpcdl.keras.BackupAndRestore",
    BackupAndRestore: "the callback itself on every rank",
    keras.callbacks.EarlyStopping: "hpcdl.keras.EarlyStopping",
    keras.callbacks.TerminateOnNaN: "hpcdl.keras.TerminateOnNaN",
    keras.callbacks.ReduceLROnPlateau: "the callback itself on every rank, behind AverageMetrics",
    keras.callbacks.LearningRateScheduler: "the callback itself on every rank",
    keras.callbacks.SwapEMAWeights: "the callback itself on every rank",
}


class BroadcastVariables(keras.callbacks.Callback):
    """Before the first step of each `fit`: weights and the optimizers' variables are rank 0's, also those that the first step makes.

    See `attach`. What layers keep of the data that they saw (the moving averages of BatchNormalization) is made the mean over all ranks at
    the end of each epoch, before its validation. Put it first, before callbacks that save the model.

    Raises Mismatch, on every rank, where another callback made the ranks' learning rates differ.
    """

    def __init__(self, world: World | None = None) -> None:
        super().__init__()
        self._world = default_world() if world is None else world
        self._pending = False  # there are statistics of an epoch that is not over

    def set_model(self, model: Any) -> None:
        """Called by Keras, before the train step is compiled."""
        super().set_model(model)
        attach(model, self._world)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Statistics of this epoch follow."""
        check_rates(self._world, self.model)
        self._pending = True

    def on_test_begin(self, logs: Any = None) -> None:
        """The validation of an epoch begins: with the mean statistics. Of its metrics, which tell the samples, nothing is forgotten yet."""
        self._mean_statistics()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Where there was no validation."""
        self._mean_statistics()

    def _mean_statistics(self) -> None:
        if self._pending:
            mean_statistics(self._world, self.model)
        self._pending = False


class AverageMetrics(keras.callbacks.Callback):
    """At the end of each epoch: ``logs`` (loss, metrics, ``val_…``) are of all ranks' samples, for the callbacks that come after it.

    Other numbers in them, which a train_step of one's own or a callback before this one has put there, are averaged over ranks. See
    `hpcdl.keras.metrics` for what is exact. Validation may be on a `shard`, or on other data of each rank; data that all ranks have in
    full give the same either way.
    """

    def __init__(self, world: World | None = None) -> None:
        super().__init__()
        self.world = default_world() if world is None else world
        self._train: dict[str, float] | None = None
        self._validation: dict[str, float] = {}
        self._training = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the last one."""
        self._train, self._validation, self._training = None, {}, True

    def on_test_begin(self, logs: Any = None) -> None:
        """The validation of an epoch begins, and with it the metrics anew."""
        if self._training and self._train is None:
            self._train = averaged(self.world, self.model)

    def on_test_end(self, logs: Any = None) -> None:
        """The validation ends, whose metrics are still there."""
        if self._training:
            self._validation = {f"val_{name}": value for name, value in averaged(self.world, self.model).items()}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write into the logs that all callbacks are given. Raises Mismatch, on every rank, where their logs have other names."""
        self._training = False
        train = averaged(self.world, self.model) if self._train is None else self._train
        if logs is not None:
            known = {**train, **self._validation}
            means = mean_of_others(self.world, logs, known)
            logs.update(means | {name: value for name, value in known.items() if name in logs})


class OnRank0(keras.callbacks.Callback):
    """Runs another callback (``ModelCheckpoint``, ``CSVLogger``, ``TensorBoard``, …) on rank 0 alone.

    Not for one that changes the model or the training, which all ranks must do alike: raises InvalidArgument, on every rank, for those
    of Keras that do.
    """

    def __new__(cls, callback: Any, world: World | None = None) -> Any:
        """The callback itself on rank 0, one that does nothing on the others."""
        for kind, cure in _FOR_ALL.items():
            if isinstance(callback, kind):
                raise InvalidArgument(f"{type(callback).__name__} changes the training, which all ranks must do alike; cure: {cure}")
        return callback if (default_world() if world is None else world).rank == 0 else keras.callbacks.Callback()


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's EarlyStopping, by rank 0's logs on every rank, so that all stop after the same epoch and restore the same one's weights.

    Put it behind `AverageMetrics`, so that these logs are of all ranks' samples. Arguments: those of ``keras.callbacks.EarlyStopping``.
    """

    def __init__(self, *arguments: Any, world: World | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.world = default_world() if world is None else world

    def get_monitor_value(self, logs: Any) -> Any:
        """Rank 0's. Called by Keras once an epoch."""
        mine = super().get_monitor_value(logs)
        told = self.world.broadcast(np.array([mine is not None, 0.0 if mine is None else float(mine)]))
        return float(told[1]) if told[0] else None


class TerminateOnNaN(keras.callbacks.TerminateOnNaN):
    """Keras's TerminateOnNaN: where any rank's loss is NaN or infinite, all ranks stop after the same batch. One small all-reduce a batch.

    Arguments: those of ``keras.callbacks.TerminateOnNaN``.
    """

    def __init__(self, *arguments: Any, world: World | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.world = default_world() if world is None else world

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called by Keras after each batch."""
        mine = float((logs or {}).get("loss", 0.0))
        bad = self.world.allreduce(np.array([not np.isfinite(mine)], np.uint8), "max")[0]
        super().on_batch_end(batch, {"loss": np.nan if bad else mine})

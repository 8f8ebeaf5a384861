"""Elastic training with Keras: a model and its optimizer that are committed and restored, in loops and in `fit`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np

from ...errors import CommunicationError, InvalidArgument
from ...keras.backends import current
from ...keras.optimizer import STATE
from ...keras.replicas import broadcast_variables
from .. import elastic
from ..basics import named, rank
from ..elastic import ObjectState, State
from ..errors import HorovodInternalError, translated
from ..objects import broadcast_object

__all__ = ["CommitStateCallback", "KerasState", "UpdateBatchStateCallback", "UpdateEpochStateCallback", "run"]

Result = TypeVar("Result")


class KerasState(ObjectState):
    """model: of Keras 3, built. optimizer: that of the model unless given. More by name: anything that can be pickled.

    backend: not needed here.
    """

    def __init__(self, model: Any, optimizer: Any = None, backend: Any = None, **kwargs: Any) -> None:
        if not model.built:
            raise InvalidArgument("Model must be built first. Run `model.build(input_shape)`.")
        self.model = model
        self.optimizer: Any = optimizer or getattr(model, "optimizer", None)
        if self.optimizer is None:
            raise InvalidArgument("The model is not compiled; give KerasState its optimizer.")
        self._keep()
        super().__init__(bcast_object=broadcast_object, get_rank=rank, **kwargs)

    def save(self) -> None:
        """Remember all of it as it is."""
        self._keep()
        super().save()

    def restore(self) -> None:
        """Come back to the last commit. What the optimizer has made since begins at zero."""
        kept = {id(v): value for v, value in self._kept}
        for v in self._variables():
            v.assign(kept[id(v)] if id(v) in kept else np.zeros(v.shape, keras.backend.standardize_dtype(v.dtype)))
        super().restore()

    def sync(self) -> None:
        """Take over rank 0's state. Collective."""
        if not self.optimizer.built:
            self.optimizer.build(self.model.trainable_variables)
        broadcast_variables(named().world, self._variables())
        self._keep()
        super().sync()

    def reset(self) -> None:
        """The steps are compiled anew, with new reductions."""
        if STATE in self.optimizer.__dict__:
            self.optimizer.__dict__[STATE].forget()
        self.model.train_function = None

    def _variables(self) -> list[Any]:
        return [*self.model.weights, *self.optimizer.variables]

    def _keep(self) -> None:
        self._kept = [(v, np.array(keras.ops.convert_to_numpy(v.value))) for v in self._variables()]


class CommitStateCallback(keras.callbacks.Callback):
    """Commits `state` every `batches_per_commit` batches, and at the end of each epoch."""

    def __init__(self, state: State, batches_per_commit: int = 1) -> None:
        super().__init__()
        self.state, self.batches_per_commit = state, batches_per_commit
        self.batches_remaining = batches_per_commit

    def on_train_begin(self, logs: Any = None) -> None:
        """Count anew, alike on all ranks."""
        self.batches_remaining = self.batches_per_commit

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """One less to go."""
        self.batches_remaining -= 1
        if self.batches_remaining == 0:
            self._commit()
            self.batches_remaining = self.batches_per_commit

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Commit."""
        self._commit()

    def _commit(self) -> None:
        current().sync(self.model)
        self.state.commit()


class UpdateBatchStateCallback(keras.callbacks.Callback):
    """``state.batch`` is the number of the batch within its epoch; 0 at its end."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write it down."""
        self.state.batch = batch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The next one begins at 0."""
        self.state.batch = 0


class UpdateEpochStateCallback(keras.callbacks.Callback):
    """``state.epoch`` is the number of epochs done, over all calls of `fit`."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state, self.initial_epoch = state, state.epoch

    def on_train_begin(self, logs: Any = None) -> None:
        """Go on from there."""
        self.initial_epoch = self.state.epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """One more is done."""
        self.state.epoch = self.initial_epoch + epoch + 1


def run(func: Callable[..., Result]) -> Callable[..., Result]:
    """See `hpcdl.horovod.elastic.run`; errors of reductions count however the backend passes them on."""

    @functools.wraps(func)
    def wrapper(state: Any, *arguments: Any, **settings: Any) -> Result:
        try:
            return func(state, *arguments, **settings)
        except HorovodInternalError:
            raise
        except CommunicationError as error:
            raise translated(error) from error
        except Exception as error:
            if type(error).__module__.startswith(("tensorflow", "jax")) and any(kind in str(error) for kind in _KINDS):
                raise HorovodInternalError(str(error)) from error
            raise

    return elastic.run(wrapper)


def _names(kind: type[Exception]) -> list[str]:
    below: list[type[Exception]] = kind.__subclasses__()
    return [kind.__name__, *(name for one in below for name in _names(one))]


_KINDS = _names(CommunicationError)  # what a compiled step's error tells of ours is their names

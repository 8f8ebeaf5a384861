"""A model whose steps know how many samples they have, and whose replicas begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import keras

from ..errors import InvalidArgument
from ..world import World
from . import batch
from .backends import current
from .evaluation import evaluate, predict
from .optimizer import STATE, distributed, is_distributed, take_over_loss_scaling
from .replicas import broadcast
from .start import default_world

__all__ = ["attach", "built"]

_STATE = "_hpcdl_attached"


def attach(model: Any, world: World | None = None, root: int = 0, own: Sequence[Any] = ()) -> None:
    """Make `model`'s steps those of one of many ranks. The callbacks here do it; call it for ``train_on_batch`` and loops without them.

    The model's class stays what it is, and so does what it is saved as. From now on, in ``fit``, ``train_on_batch`` and ``evaluate``:
    gradients are weighted by the samples in this rank's batch (the first dimension of its input); a batch that stands in for no data (see
    `shard`) counts for nothing, in metrics and moving averages neither; before the first step, weights and the variables of the model's
    optimizers are rank `root`'s, but for those in `own`; with ``jit_compile`` the reduction runs around what is compiled; ``evaluate`` and
    ``predict`` of a `shard` return, on every rank, what one process returns. Called again: they are the root's again. Collective.

    Raises InvalidArgument where the model is not compiled, or none of its optimizers distributed (its own, or, with a train_step of one's
    own, any that is an attribute of it); Mismatch, the same on every rank, where the ranks' models differ.
    """
    if not getattr(model, "compiled", False):
        raise InvalidArgument("the model is not compiled; call model.compile(optimizer=hpcdl.keras.DistributedOptimizer(…), …) first")
    if model.optimizer is not None:
        take_over_loss_scaling(model.optimizer)
        custom = type(model).train_step is not keras.Model.train_step
        if not (distributed(model) if custom else is_distributed(model.optimizer)):
            raise InvalidArgument(
                f"the model's optimizer, {type(model.optimizer).__name__}, is not distributed, so replicas would drift apart; cure: "
                "compile(optimizer=hpcdl.keras.DistributedOptimizer(…))"
            )
    state = model.__dict__.get(_STATE)
    if state is None or state.optimizer is not model.optimizer:
        state = model.__dict__[_STATE] = _Attached(default_world() if world is None else world, model.optimizer, root, own)
        for name, method in _METHODS.items():
            model.__dict__[name] = MethodType(method, model)
        model.train_function = model.test_function = None  # made of other steps
    if state.settings is not model._compile_config:  # it was compiled, or compiled again
        state.settings = model._compile_config
        state.train = current().compiled(model, MethodType(type(model).train_step, model))
    state.root, state.own = root, own
    for optimizer in distributed(model):
        optimizer.__dict__[STATE].attached = True
    state.begin(model)


class _Attached:
    """What an attached model carries."""

    def __init__(self, world: World, optimizer: Any, root: int, own: Sequence[Any]) -> None:
        self.world, self.optimizer, self.root, self.own = world, optimizer, root, own
        self._alike = False
        self.step = current().at_run_time(self._step)
        self.settings: Any = None  # what the model was compiled with when `train` was made
        self.train: Any = None  # the model's train step, compiled as the model wants it

    def __deepcopy__(self, memo: dict[int, Any]) -> _Attached:
        return _Attached(self.world, memo.get(id(self.optimizer), self.optimizer), self.root, self.own)

    def begin(self, model: Any, data: Any = None) -> None:
        """Give all ranks the root's values; with `data`, a batch, only if that could not be done before, as the model had no variables."""
        self._alike = self._alike and data is not None
        if self._alike or (data is None and not built(model)):
            return
        self._alike = True
        if not built(model):
            model._symbolic_build(data_batch=data)
        elif is_distributed(self.optimizer) and not self.optimizer.built:
            self.optimizer.build(model.trainable_variables)
        broadcast(self.world, model, self.root, self.own)

    def _step(self, model: Any, method: Any, arguments: Any, training: bool) -> Any:
        """One step of `model`, `method`, on whatever the backend gives it."""
        data = arguments[-1]
        if training:
            with current().at_once():
                self.begin(model, data)
        x, _, weights = keras.utils.unpack_x_y_sample_weight(data)
        samples = _first(x)
        backend = current()
        with batch.weighing(None):
            if weights is None:
                return self._run(model, method, arguments, training, backend.rows(samples))
            counts = keras.ops.reshape(_first(weights), (-1,))[0] >= 0
            rows = keras.ops.where(counts, keras.ops.cast(backend.rows(samples), "int32"), 0)
            return backend.counted(model, lambda *a: self._run(model, method, a, training, rows), arguments, counts)

    def _run(self, model: Any, method: Any, arguments: Any, training: bool, rows: Any) -> Any:
        if not training:
            return method(model, *arguments)
        with batch.weighing(rows):
            return (self.train or MethodType(method, model))(*arguments)


def built(model: Any) -> bool:
    """Whether all layers have their variables."""
    return all(layer.built for layer in model._flatten_layers())


def _first(structure: Any) -> Any:
    return next(leaf for leaf in keras.tree.flatten(structure) if leaf is not None)


def _train_step(self: Any, *arguments: Any) -> Any:
    """In place of the model's own: the same, as one of many ranks."""
    return self.__dict__[_STATE].step(self, type(self).train_step, arguments, training=True)


def _test_step(self: Any, *arguments: Any) -> Any:
    """In place of the model's own: the same, without stand-ins."""
    return self.__dict__[_STATE].step(self, type(self).test_step, arguments, training=False)


def _evaluate(self: Any, *arguments: Any, **settings: Any) -> Any:
    """In place of the model's own: the same, and of shared data that of all ranks."""
    return evaluate(self.__dict__[_STATE].world, self, *arguments, **settings)


def _predict(self: Any, *arguments: Any, **settings: Any) -> Any:
    """In place of the model's own: the same, and of shared data that of all ranks."""
    return predict(self.__dict__[_STATE].world, self, *arguments, **settings)


_METHODS = {"train_step": _train_step, "test_step": _test_step, "evaluate": _evaluate, "predict": _predict}

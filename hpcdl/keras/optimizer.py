"""The optimizer of a distributed model: Keras's own, whose gradients are averaged over all ranks before it looks at them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import MethodType
from typing import Any

import keras
import numpy as np

from ..agree import compare
from ..errors import InvalidArgument
from ..reduction.compressors import by_name
from ..world import World
from . import batch
from .backends import current
from .exchange import Exchange
from .start import default_world

__all__ = ["STATE", "Averaging", "DistributedOptimizer", "checked", "distributed", "install", "is_distributed", "take_over_loss_scaling"]

_BEGIN_ALIKE = "callbacks=[hpcdl.keras.BroadcastVariables()], hpcdl.keras.attach(model), or broadcast_variables before the first step"
#: Under this name an optimizer carries its `Averaging`.
STATE = "_hpcdl_averaging"


def DistributedOptimizer(  # noqa: N802
    optimizer: Any,
    codec: Any = None,
    *,
    world: World | None = None,
    collective: str = "auto",
    error_feedback: bool | None = None,
    bucket_bytes: int = 4 << 20,
    check_finite: bool = False,
) -> Any:
    """`optimizer` itself (an instance, or a name as for ``compile``), from now on fed with gradients averaged over all ranks.

    Its class stays what it is, so a model is saved with the plain optimizer and loads without this package. The gradients are averaged
    when ``apply`` is called (by ``fit``, ``train_on_batch``, a ``train_step`` or loop of one's own, compiled or not), before clipping,
    weight decay, accumulation and the finite check of loss scaling, all of which then see the same values on every rank. Within a model's
    train step the mean is weighted by the samples of each rank's batch (see `attach`); elsewhere all ranks count alike.

    codec, collective, error_feedback, bucket_bytes, check_finite: as for `hpcdl.Reducer`. With ``gradient_accumulation_steps`` each
    batch's gradients are reduced, and each batch counts alike in the sum, as on one process. Under the global policy ``mixed_float16`` the
    optimizer comes back within Keras's LossScaleOptimizer, as ``compile`` would wrap it, so that the finite check sees the means.

    Called again on the same optimizer: the last settings hold. Raises InvalidArgument for what is no optimizer of Keras 3, UnknownName
    for a codec that nobody knows.
    """
    optimizer = checked(optimizer)
    by_name(codec)
    options = {
        "codec": codec,
        "collective": collective,
        "error_feedback": error_feedback,
        "bucket_bytes": bucket_bytes,
        "check_finite": check_finite,
    }
    install(optimizer, Averaging(default_world() if world is None else world, options))
    return optimizer


def checked(optimizer: Any) -> Any:
    """An optimizer of Keras 3, from one or from its name; within a LossScaleOptimizer where `compile` would wrap it.

    Raises InvalidArgument for what is none.
    """
    if isinstance(optimizer, str | dict):
        optimizer = keras.optimizers.get(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InvalidArgument(f"expected an optimizer of Keras 3, such as keras.optimizers.Adam(), got {optimizer!r}")
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and keras.config.dtype_policy().name == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def is_distributed(optimizer: Any) -> bool:
    """Whether its gradients are averaged."""
    return STATE in getattr(optimizer, "__dict__", ())


def distributed(model: Any) -> list[Any]:
    """The model's optimizers whose gradients are averaged: its own, and others that are attributes of it; by the attributes' names."""
    found = {id(value): value for _, value in sorted(vars(model).items()) if is_distributed(value)}
    return list(found.values())


def take_over_loss_scaling(optimizer: Any) -> None:
    """Where `optimizer` is a LossScaleOptimizer around a distributed one: average before its finite check, not within.

    Why: within, a rank with an infinity would skip the reduction that the others wait for.
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and is_distributed(inner):
        state = inner.__dict__[STATE]
        for name in (STATE, "apply", "stateless_apply"):
            inner.__dict__.pop(name, None)
        install(optimizer, state)


class Averaging:
    """What a distributed optimizer carries: an exchange for each set of variables that it has been given gradients of."""

    def __init__(self, world: World, options: dict[str, Any]) -> None:
        self.world, self.options = world, options
        self.attached = False  # somebody else sees that the replicas begin alike
        self._averaged = current().at_run_time(self._means)
        self._exchanges: dict[Any, Exchange] = {}
        self._saved: dict[str, list[tuple[str, Any]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Averaging:
        return Averaging(self.world, self.options)

    def weight(self) -> Any:
        """The samples behind this rank's gradients; None: all ranks count alike."""
        return batch.samples()

    def mean(self, gradients: Any, variables: Any) -> list[Any]:
        """The means over all ranks, in which a None counts as zeros; None where it is None on all of them."""
        means: list[Any] = self._averaged(gradients, variables)
        return means

    def _means(self, gradients: Any, variables: Any) -> list[Any]:
        found: list[Any] = list(gradients)
        if self.world.size == 1:
            return found
        present = self._present(found)
        for i in present:
            if found[i] is None:
                found[i] = keras.ops.zeros(variables[i].shape, variables[i].dtype)
        if not present:
            return found
        named = [f"{i} {variables[i].name}" if i < len(variables) else f"{i}" for i in present]
        shapes = [tuple(found[i].shape) for i in present]
        dtypes = [np.dtype(keras.backend.standardize_dtype(found[i].dtype)) for i in present]
        key = (*named, *shapes, *dtypes)
        exchange = self._exchanges.get(key)
        if exchange is None:
            exchange = self._exchanges[key] = Exchange(self.world, named, shapes, dtypes, self.options)
            self._resume()
            if not self.attached:
                _check_alike(self.world, [variables[i] for i in present if i < len(variables)])
        means = current().average(exchange, [found[i] for i in present], self.weight())
        for i, mean in zip(present, means, strict=True):
            found[i] = mean
        return found

    def forget(self) -> None:
        """What is compiled from now on gets new reductions. Called by all ranks."""
        self._exchanges.clear()

    def state(self, method: str) -> dict[str, Any]:
        """What `method` of each reducer gives: what codecs keep, or have dropped."""
        return {_name(key): getattr(exchange.reducer, method)() for key, exchange in self._exchanges.items()}

    def load(self, method: str, saved: Mapping[str, Any]) -> None:
        """Give each reducer by `method` what was saved of it; one that is not there yet, when its first gradients come."""
        for name, state in saved.items():
            self._saved.setdefault(name, []).append((method, state))
        self._resume()

    def _resume(self) -> None:
        for key, exchange in self._exchanges.items():
            for method, state in self._saved.pop(_name(key), ()):
                getattr(exchange.reducer, method)(state)

    def _present(self, gradients: list[Any]) -> list[int]:
        """The numbers of the gradients that any rank has; in a graph, where that is the same in every step, those that this rank has."""
        mine = np.array([[gradient is not None for gradient in gradients]], np.uint8)
        everyone = self.world.allgather(mine) if current().eager() else mine
        return [i for i, having in enumerate(everyone.T) if having.any()]


def _name(key: Any) -> str:
    """Of the reducer for these gradients, the same in another run."""
    return blake2b(repr(key).encode(), digest_size=8).hexdigest()


def _check_alike(world: World, variables: Sequence[Any]) -> None:
    """Raise the same Mismatch on every rank where the trained variables have other values on some; warn where they are not known."""
    lines = []
    with current().at_once():
        for i, v in enumerate(variables):
            value = None if v._value is None else keras.ops.convert_to_numpy(v._value)
            if value is not None and value.shape == tuple(v.shape):
                lines.append(f"{i} {v.name}: of digest {blake2b(value.tobytes(), digest_size=8).hexdigest()}")
    known = len(lines) == len(variables)
    compare(world, lines if known else [], "the weights with which the ranks begin", cure=_BEGIN_ALIKE)
    if not known:  # JAX's fit keeps values elsewhere; TensorFlow's has none yet where it traces the first step of a model that is not built
        warnings.warn(f"the optimizer is distributed, but nothing sees that the replicas begin alike; cure: {_BEGIN_ALIKE}", stacklevel=2)


def install(optimizer: Any, state: Averaging) -> None:
    """From now on `optimizer` averages by `state`.

    Why on the instance: the class is what a saved model names, and a copied instance gets methods of its own."""
    optimizer.__dict__[STATE] = state
    optimizer.__dict__["apply"] = MethodType(_apply, optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.__dict__["stateless_apply"] = MethodType(_stateless_apply, optimizer)


def _apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    """In place of the optimizer's own `apply`: that of the averaged gradients."""
    known = self._trainable_variables if trainable_variables is None else list(trainable_variables)
    return type(self).apply(self, self.__dict__[STATE].mean(grads, known), trainable_variables)


def _stateless_apply(self: Any, optimizer_variables: Any, grads: Any, trainable_variables: Any) -> Any:
    """The same for a LossScaleOptimizer under JAX, which does not come by `apply`."""
    return type(self).stateless_apply(
        self, optimizer_variables, self.__dict__[STATE].mean(grads, self._trainable_variables), trainable_variables
    )

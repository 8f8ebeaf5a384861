"""`DistributedOptimizer` of Horovod's Keras front: that of `hpcdl.keras`, with Horovod's settings."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any, NamedTuple

import keras

from ...errors import InvalidArgument
from ...keras.optimizer import STATE, Averaging, checked, install
from ...reduction.compressors import by_name
from ..arguments import check_predivide, groups_of, identity
from ..basics import Average, Sum, named, op_name
from ..compressors import codec_of
from ..feedback import carries_over
from ..process_sets import ProcessSet, global_process_set
from .compression import Compression

__all__ = ["DistributedOptimizer", "PartialDistributedOptimizer", "weights_of"]

_BUCKET = 4 << 20  # bytes


class _Settings(NamedTuple):
    """As `DistributedOptimizer` was given them. times: what sums of several passes, which Keras averages, are multiplied by."""

    compression: Any
    op: int
    process_set: ProcessSet
    scale_local: bool
    times: int


class _Reducing(Averaging):
    """Carried by an optimizer. Ranks count alike, as in Horovod; a rank outside of the process set steps `alone`."""

    def __init__(self, settings: _Settings) -> None:
        codec = codec_of(settings.compression, floating=True)
        feedback = carries_over(settings.compression, op_name(settings.op))
        options = {"codec": codec, "collective": "auto", "error_feedback": feedback, "bucket_bytes": _BUCKET, "check_finite": False}
        self.settings, self.local, self.variables = settings, set[int](), list[Any]()
        self.alone = not settings.process_set.included() or named(settings.process_set).size == 1
        by_name(codec)
        super().__init__(named(global_process_set if self.alone else settings.process_set).world, options)
        self.attached = True  # Horovod's callback broadcasts after the first batch

    def __deepcopy__(self, memo: dict[int, Any]) -> _Reducing:
        new = _Reducing(self.settings)
        new.local = set(self.local)
        return new

    def weight(self) -> Any:
        """All ranks count alike."""

    def mean(self, gradients: Any, variables: Any) -> list[Any]:
        """The mean, or what `op` says, over all ranks; of a local variable this rank's own gradient. None stays None."""
        settings, found = self.settings, list(gradients)
        times = float(settings.times)
        if not self.alone:
            mine = {i: found[i] for i, v in enumerate(variables) if identity(v) in self.local and found[i] is not None}
            away = [None if i in mine else g for i, g in enumerate(found)]
            if settings.op == Sum:
                times *= self.world.size
            found = self._exchanged(away, variables)
            for i, g in mine.items():
                share = self.world.size if settings.scale_local else 1
                found[i] = g * (settings.times / share / times)
        return found if times == 1.0 else [None if g is None else g * times for g in found]

    def _exchanged(self, gradients: list[Any], variables: Any) -> list[Any]:
        compression = self.settings.compression
        if codec_of(compression, floating=True) is not None:
            return super().mean(gradients, variables)
        pairs = [(None, None) if g is None else compression.compress(g) for g in gradients]
        means = super().mean([g for g, _ in pairs], variables)
        return [None if g is None else compression.decompress(g, context) for g, (_, context) in zip(means, pairs, strict=True)]


def DistributedOptimizer(  # noqa: N802 - Horovod's name
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: int = Average,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
) -> Any:
    """`optimizer` itself, of Keras 3 on any backend, whose steps from now on use the gradients of all ranks. It is saved as what it is.

    compression: see `Compression`. gradient_predivide_factor: averages are divided before and after the sum, which is exact here either
    way. op: Average or Sum. backward_passes_per_step: gradients are summed on this rank over so many batches, then reduced, and only then
    is there a step (on JAX they are reduced every time); average_aggregated_gradients: divided by that number. process_set: the ranks
    that take part; the others step alone. scale_local_gradients: gradients of variables that `optimizer.register_local_var` was given are
    divided by the number of ranks. Gradients are bucketed by size, and sparse ones are dense: groups, num_groups, sparse_as_dense,
    devices and name change nothing.

    Raises InvalidArgument for settings that cannot be.
    """
    if op not in (Average, Sum):
        raise InvalidArgument("op currently only supports Average and Sum")
    check_predivide(gradient_predivide_factor, op)
    groups_of(groups, num_groups)
    optimizer = checked(optimizer)
    passes = backward_passes_per_step
    if passes < 1:
        raise InvalidArgument("backward_passes_per_step must be > 0")
    times = 1 if average_aggregated_gradients else passes
    state = _Reducing(_Settings(compression, op, process_set, scale_local_gradients, times))
    install(optimizer, state)
    if passes > 1:
        _accumulate(optimizer, passes)
    optimizer.__dict__["register_local_var"] = MethodType(_register_local_var, optimizer)
    return optimizer


def PartialDistributedOptimizer(  # noqa: N802 - Horovod's name
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: int = Average,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """`DistributedOptimizer`, for which the trainable weights of `local_layers` stay this rank's own."""
    new = DistributedOptimizer(
        optimizer,
        compression=compression,
        gradient_predivide_factor=gradient_predivide_factor,
        op=op,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
    )
    for weight in weights_of(local_layers):
        new.register_local_var(weight)
    return new


def weights_of(layers: Any) -> Sequence[Any]:
    """The trainable weights of a layer, of several, or of None. Raises InvalidArgument for what is no layer of Keras."""
    several = [] if layers is None else [layers] if isinstance(layers, keras.layers.Layer) else list(layers)
    if not all(isinstance(layer, keras.layers.Layer) for layer in several):
        raise InvalidArgument("All local layers must be of tf.keras.layers.Layer type.")
    return [weight for layer in several for weight in layer.trainable_weights]


def _accumulate(optimizer: Any, passes: int) -> None:
    """Let Keras add up the gradients of so many batches, and reduce their sum behind that."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise InvalidArgument(
            "backward_passes_per_step > 1 does not go with mixed_float16: each rank would skip other batches; cure: larger batches, or "
            "mixed_bfloat16"
        )
    if optimizer.built or optimizer.gradient_accumulation_steps not in (None, passes):
        raise InvalidArgument(
            "backward_passes_per_step > 1 needs an optimizer that has no variables and no gradient_accumulation_steps yet; make a new one"
        )
    optimizer.gradient_accumulation_steps = passes
    optimizer.__dict__["apply"] = MethodType(_apply, optimizer)
    optimizer.__dict__["_clip_gradients"] = MethodType(_clip_gradients, optimizer)


def _apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
    """In place of the optimizer's own `apply`: the same, of variables that `_clip_gradients` is going to need."""
    variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
    self.__dict__[STATE].variables = [v for v, g in zip(variables, grads, strict=True) if g is not None]
    return type(self).apply(self, grads, trainable_variables)


def _clip_gradients(self: Any, grads: Any) -> Any:
    """In place of the optimizer's own, which Keras calls when the sum is complete: that of the reduced sum."""
    state = self.__dict__.get(STATE)
    return type(self)._clip_gradients(self, grads if state is None else state.mean(grads, state.variables))


def _register_local_var(self: Any, var: Any) -> None:
    """The gradient of `var` stays this rank's own."""
    self.__dict__[STATE].local.add(identity(var))

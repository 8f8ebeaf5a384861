"""`DistributedOptimizer` of TensorFlow: for the optimizers of `tf.compat.v1.train`; those of Keras go to the front for Keras."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ...errors import InvalidArgument
from ..arguments import groups_of, identity
from ..basics import Adasum, Average
from ..keras.optimizer import DistributedOptimizer as ForKeras
from ..process_sets import ProcessSet, global_process_set
from .bridge import tensor_of
from .compression import Compression
from .gradients import Gradients
from .reductions import allreduce

__all__ = ["DistributedOptimizer"]

_V1: Any = tf.compat.v1.train.Optimizer


class _Wrapped(_V1):
    """Does as another optimizer does, but for what the subclasses add."""

    def __init__(self, optimizer: Any, name: str | None, use_locking: bool) -> None:
        super().__init__(name=name or f"Distributed{type(optimizer).__name__}", use_locking=use_locking)
        self._optimizer = optimizer

    def compute_gradients(self, *arguments: Any, **settings: Any) -> Any:
        """As the optimizer's own."""
        return self._optimizer.compute_gradients(*arguments, **settings)

    def apply_gradients(self, *arguments: Any, **settings: Any) -> Any:
        """As the optimizer's own."""
        return self._optimizer.apply_gradients(*arguments, **settings)

    def get_slot(self, *arguments: Any, **settings: Any) -> Any:
        """As the optimizer's own."""
        return self._optimizer.get_slot(*arguments, **settings)

    def get_slot_names(self, *arguments: Any, **settings: Any) -> Any:
        """As the optimizer's own."""
        return self._optimizer.get_slot_names(*arguments, **settings)

    def variables(self, *arguments: Any, **settings: Any) -> Any:
        """As the optimizer's own."""
        return self._optimizer.variables(*arguments, **settings)


class _Averaging(_Wrapped):
    """Gradients are those of all ranks."""

    _gradients: Gradients

    def register_local_var(self, var: Any) -> None:
        """The gradient of `var` stays this rank's own."""
        self._gradients.local.add(identity(var))

    def compute_gradients(self, *arguments: Any, **settings: Any) -> Any:
        """As the optimizer's own, reduced."""
        gradients, variables = zip(*self._optimizer.compute_gradients(*arguments, **settings), strict=True)
        return list(zip(self._gradients.reduce(gradients, variables), variables, strict=True))


class _Adasum(_Wrapped):
    """Each rank steps by itself; what it has changed is combined by Adasum."""

    _compression: Any

    def apply_gradients(self, grads_and_vars: Any, global_step: Any = None, name: str | None = None) -> Any:
        """One step of the optimizer, then that of all ranks."""
        pairs = list(grads_and_vars)
        variables = [v for _, v in pairs]
        before = [tf.raw_ops.DeepCopy(x=tensor_of(v)) for v in variables]  # variables of TensorFlow 1 are read without a copy
        with tf.control_dependencies(before):
            done = self._optimizer.apply_gradients(pairs, global_step=global_step, name=name)
        with tf.control_dependencies([] if done is None else [done]):
            changes = [tensor_of(v) - old for v, old in zip(variables, before, strict=True)]
        assigned = [
            v.assign(old + allreduce(change, op=Adasum, compression=self._compression, name=f"{self._name}_{i}"))
            for i, (v, old, change) in enumerate(zip(variables, before, changes, strict=True))
        ]
        return tf.group(*assigned)


def DistributedOptimizer(  # noqa: N802 - Horovod's name
    optimizer: Any,
    name: str | None = None,
    use_locking: bool = False,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    backward_passes_per_step: int = 1,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
) -> Any:
    """`optimizer`, of Keras or of `tf.compat.v1.train`, whose steps use the gradients of all ranks.

    Of Keras: see `hpcdl.horovod.keras.DistributedOptimizer`, which backward_passes_per_step and average_aggregated_gradients belong to.
    Other settings: see `tape.DistributedGradientTape`; op=Adasum combines the steps of an optimizer of `tf.compat.v1.train`.

    Raises InvalidArgument for settings that cannot be.
    """
    groups = groups_of(groups, num_groups)
    if op == Adasum and average_aggregated_gradients:
        raise InvalidArgument("Adasum does not support average_aggregated_gradients == True")
    if not isinstance(optimizer, _V1):
        if op == Adasum:
            raise InvalidArgument("op == Adasum is not supported yet with Keras")
        return ForKeras(
            optimizer,
            name=name,
            compression=compression,
            sparse_as_dense=sparse_as_dense,
            gradient_predivide_factor=gradient_predivide_factor,
            op=op,
            backward_passes_per_step=backward_passes_per_step,
            average_aggregated_gradients=average_aggregated_gradients,
            groups=groups,
            process_set=process_set,
            scale_local_gradients=scale_local_gradients,
        )
    if backward_passes_per_step != 1:
        raise InvalidArgument(
            "backward_passes_per_step > 1 is not supported for optimizers of tf.compat.v1.train; use one of tf.keras.optimizers"
        )
    if op == Adasum:
        if process_set.process_set_id != 0:
            raise NotImplementedError("Adasum does not support process sets yet")
        adasum = _Adasum(optimizer, name or f"DistributedDelta{type(optimizer).__name__}", use_locking)
        adasum._compression = compression
        return adasum
    new = _Averaging(optimizer, name, use_locking)
    new._gradients = Gradients(
        new.get_name(), compression, sparse_as_dense, op, gradient_predivide_factor, groups, process_set, scale_local_gradients
    )
    return new

"""Keras on TensorFlow: in the graph, one call into Python for each bucket, which starts as soon as its gradients are there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
import tensorflow as tf

from ...world import World
from ..exchange import Exchange

__all__ = ["at_once", "at_run_time", "average", "compiled", "counted", "eager", "rows", "settle", "sync"]

_LABEL = "mean_over_ranks__call_hk_attach_where_XLA_refuses_this"  # what XLA's error shows
_latest: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # by graph: the latest of our operations in it


def settle(world: World, threads: int) -> None:
    """This local rank's GPU, where there is one, and so many threads; TensorFlow takes both before its first operation only."""
    try:
        devices = tf.config.list_physical_devices("GPU")
        if devices:
            number = world.local_rank % len(devices)
            tf.config.set_visible_devices(devices[number], "GPU")
            tf.config.experimental.set_memory_growth(devices[number], True)
            world.device = f"cuda:{number}"
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        warnings.warn(
            f"call hpcdl.keras.init() before TensorFlow's first operation: this rank could not take its device ({error})", stacklevel=3
        )


def eager() -> bool:
    """Whether no graph is being made."""
    return bool(tf.executing_eagerly())


def average(exchange: Exchange, gradients: Sequence[Any], weight: Any) -> list[Any]:
    """The means over all ranks, as part of the graph under way, or at once.

    Why one after the other within a graph: two that wait for other ranks at a time could fill the threads that run the graph.
    """
    dense = [tf.convert_to_tensor(g) for g in gradients]  # an embedding's gradient comes as slices
    told = tf.constant(-1.0, tf.float64) if weight is None else tf.cast(weight, tf.float64)
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = [] if graph is None or graph not in _latest else [_latest[graph]]

    def starter(number: int) -> Callable[..., Any]:
        def start(weight: Any, *arrays: Any) -> Any:
            exchange.put(number, None if weight < 0 else float(weight), arrays)
            return np.int32(0)

        return start

    with tf.control_dependencies(before):
        started = [
            tf.numpy_function(starter(number), [told, *(dense[i] for i in members)], tf.int32, name=_LABEL)
            for number, members in enumerate(exchange.buckets)
        ]
        with tf.control_dependencies(started):
            means = tf.nest.flatten(tf.numpy_function(exchange.collect, [], [g.dtype for g in dense], name=_LABEL))  # of one: not a list
    if graph is not None:
        _latest[graph] = means[0]
    return [_shaped(mean, g) for mean, g in zip(means, dense, strict=True)]


def rows(x: Any) -> Any:
    """The samples of a batch: its first dimension, of the batch that runs."""
    return tf.shape(x)[0]


def at_once() -> Any:
    """Within: what is computed is computed now, not put into the graph."""
    return tf.init_scope()


def at_run_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """As it is: it makes the part of the graph that calls Python."""
    return function


def sync(model: Any) -> None:
    """Nothing here: variables always hold their values."""


def counted(model: Any, step: Callable[..., Any], arguments: Sequence[Any], counts: Any) -> Any:
    """One step, of which nothing but the trained and the optimizer's variables remains where `counts` is false."""
    variables = [*model.metrics_variables, *model.non_trainable_variables]
    before = [tf.identity(v.value) for v in variables]
    result = step(*arguments)
    for v, value in zip(variables, before, strict=True):
        v.assign(tf.where(counts, v.value, value))
    return result


def compiled(model: Any, step: Callable[..., Any]) -> Callable[..., Any]:
    """The model's step, compiled as the model wants it; before Keras makes its train function.

    XLA cannot call Python, so where it is to compile the model, it gets forward and backward, and the reduction runs around them. Keras's
    own train step ends with the update, so its gradients can be taken out of the compiled part and applied behind it. Of a train
    step of somebody's own that is not known: it runs as a plain graph, with a warning.
    """
    if model.run_eagerly or not model.jit_compile:
        return step
    model.jit_compile = False  # of the graph around it
    if type(model).train_step is not keras.Model.train_step:
        warnings.warn(
            "jit_compile is set to False: XLA cannot compile a train_step of one's own together with the reduction over ranks, since it "
            "cannot call Python; cure: none needed, or tf.function(jit_compile=True) around the part of it that shall be compiled",
            stacklevel=2,
        )
        return step
    return _Split(model, step)


class _Split:
    """Keras's own train step in two: all but the update, compiled by XLA, then the update with averaged gradients."""

    def __init__(self, model: Any, step: Callable[..., Any]) -> None:
        self._model, self._step = model, step
        self._variables: Any = None
        self._first = tf.function(self._forward_backward, jit_compile=True, reduce_retracing=True)

    def __call__(self, data: Any) -> Any:
        logs, gradients = self._first(data)
        self._model.optimizer.apply(gradients, self._variables)
        return logs

    def _forward_backward(self, data: Any) -> Any:
        taken: list[Any] = []
        methods = self._model.optimizer.__dict__
        was = methods["apply"]

        def take(grads: Any, trainable_variables: Any = None) -> None:
            self._variables = trainable_variables
            taken.extend(None if g is None else tf.convert_to_tensor(g) for g in grads)

        methods["apply"] = take
        try:
            logs = self._step(data)
        finally:
            methods["apply"] = was
        return logs, taken


def _shaped(mean: Any, like: Any) -> Any:
    mean.set_shape(like.shape)
    return mean

"""Batch normalisation over the samples of all ranks, for Keras on TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ...errors import InvalidArgument
from ..basics import Sum, named
from ..process_sets import global_process_set
from .dense import How, reduced

__all__ = ["SyncBatchNormalization"]


@keras.saving.register_keras_serializable(package="Horovod")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, with mean and variance of the batches of all ranks together, each weighted by its samples. fused: False."""

    def __init__(self, fused: bool = False, **kwargs: Any) -> None:
        if fused in (True, None):
            raise InvalidArgument("SyncBatchNormalization does not support fused=True.")
        if not kwargs.get("name"):
            kwargs["name"] = "sync_batch_normalization"
        super().__init__(**kwargs)

    def _moments(self, inputs: Any, mask: Any) -> Any:
        """One all-reduce of 2 * channels + 1 numbers. Called by Keras in training."""
        mean, variance = super()._moments(inputs, mask)
        if named().size == 1:
            return mean, variance
        rows = tf.size(inputs) // tf.size(mean) if mask is None else tf.math.count_nonzero(mask)
        count = tf.cast(rows, mean.dtype)
        square = variance + tf.square(mean)
        told = tf.concat([tf.reshape(mean, [-1]) * count, tf.reshape(square, [-1]) * count, [count]], 0)
        (total,) = reduced([told], None, How(Sum, process_set=global_process_set))
        means, squares = tf.split(total[:-1] / total[-1], 2)
        mean_of_all = tf.reshape(means, tf.shape(mean))
        return mean_of_all, tf.reshape(squares, tf.shape(mean)) - tf.square(mean_of_all)

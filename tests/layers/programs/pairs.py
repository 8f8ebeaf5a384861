"""Horovod's front for TensorFlow where the number of ranks must be a power of two: Adasum."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from side import run

import hpcdl.horovod.tensorflow as hvd
from hpcdl.horovod.adasum import combine

hvd.init()


def wanted(steps):
    """What one process makes of all ranks' steps."""
    return combine(*(np.asarray(step, np.float32) for step in steps))


def case_older_optimizers(s) -> None:
    """In a graph, of variables that are read with and without a copy."""
    v1 = tf.compat.v1
    for resource in (True, False):
        with tf.Graph().as_default():
            v = v1.get_variable("v", [2], initializer=v1.ones_initializer(), use_resource=resource)
            value = tf.reduce_sum(v * [s.rank + 1.0, 1.0])
            train = hvd.DistributedOptimizer(v1.train.GradientDescentOptimizer(0.1), op=hvd.Adasum).minimize(value)
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                session.run(train)
                np.testing.assert_allclose(session.run(v), 1 + wanted([[-0.1, -0.1], [-0.2, -0.1]]), rtol=1e-6)


def case_tape(s) -> None:
    v = tf.Variable([1.0, 1.0])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(v * [s.rank + 1.0, 1.0])
    (found,) = hvd.DistributedGradientTape(tape, op=hvd.Adasum).gradient(value, [v])
    np.testing.assert_allclose(found, wanted([[1.0, 1.0], [2.0, 1.0]]), rtol=1e-6)


if __name__ == "__main__":
    run(globals())

"""Train steps of one's own, with one optimizer or several, and such that use another part of the model in each step."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import side
from side import BACKEND, BATCH, both, data, loss

import hpcdl.keras as hk


def step_of_own(self, *arguments):
    """A train step as the guides of Keras write it for each backend."""
    x, y = arguments[-1]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        self.optimizer.apply(tape.gradient(value, self.trainable_weights), self.trainable_weights)
        return {"loss": value}
    if BACKEND == "torch":
        self.zero_grad()
        value = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        value.backward()
        import torch

        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in self.trainable_weights], self.trainable_weights)
        return {"loss": value}
    import jax

    trained, others, optimizer, metrics = arguments[0]

    def value_of(trained):
        predicted, others_now = self.stateless_call(trained, others, x, training=True)
        return self.compute_loss(x=x, y=y, y_pred=predicted), others_now

    (value, others), gradients = jax.value_and_grad(value_of, has_aux=True)(trained)
    trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
    return {"loss": value}, (trained, others, optimizer, metrics)


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(side.CLASSES)

    def call(self, x, training=None):
        return self.b(self.a(x))

    train_step = step_of_own


def own(seed):
    keras.utils.set_random_seed(seed)
    model = Own()
    model.build((None, side.FEATURES))
    return model


def case_train_step_of_own(s):
    both(s, make=own)
    if BACKEND == "tensorflow":
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            both(s, make=own, jit_compile=True)
        assert sum("jit_compile is set to False" in str(w.message) for w in told) == 1, [str(w.message) for w in told]


class Pair(keras.Model):
    """Two layers, each trained by an optimizer of its own, as the guides of Keras write adversarial networks."""

    def __init__(self):
        super().__init__()
        self.a, self.b = keras.layers.Dense(side.CLASSES), keras.layers.Dense(side.CLASSES)
        self.a.build((None, side.FEATURES))
        self.b.build((None, side.CLASSES))
        self.built = True

    def call(self, x):
        return self.b(self.a(x))

    def compile(self, first, second):
        super().compile()
        self.first, self.second, self.loss_of = first, second, loss()

    def train_step(self, data):
        x, y = data
        for layer, optimizer in ((self.a, self.first), (self.b, self.second)):
            weights = layer.trainable_weights
            if BACKEND == "tensorflow":
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    value = self.loss_of(y, self(x))
                optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
            else:
                self.zero_grad()
                value = self.loss_of(y, self(x))
                value.backward()
                optimizer.apply([w.value.grad for w in weights], weights)
        return {"value": value}


def case_optimizers_beside_the_own(s):
    """Those of a model that does not use the one which `compile` gives it."""
    if BACKEND == "jax":
        return  # such a step has to hand every optimizer's state around by itself
    x, y = data()
    models = []
    for distributed in (False, True):
        keras.utils.set_random_seed(1 + s.rank * distributed)
        model = Pair()
        optimizers = [keras.optimizers.Adam(1e-2), keras.optimizers.SGD(0.1)]
        model.compile(*(map(hk.DistributedOptimizer, optimizers) if distributed else optimizers))
        mine, size = (s.part(x, y, batch=BATCH), BATCH // s.size) if distributed else ((x, y), BATCH)
        model.fit(*mine, batch_size=size, epochs=2, shuffle=False, verbose=0, callbacks=[hk.BroadcastVariables()] * distributed)
        models.append(model)
    s.same(models[1], models[0])


class Either(keras.Model):
    """A layer that this rank's step does not use gets no gradient, in each step another one."""

    def __init__(self, rank):
        super().__init__()
        self.layers_of = [keras.layers.Dense(side.CLASSES) for _ in range(3)]
        self.step = rank

    def call(self, x, training=None):
        self.step += bool(training)
        return self.layers_of[self.step % 2](x)


def case_gradients_that_some_ranks_lack(s):
    """They count as zeros; what no rank has a gradient of is left alone."""
    if BACKEND == "jax":
        return  # whose gradients are never None
    x, y = data()
    keras.utils.set_random_seed(1 + s.rank)
    model = Either(s.rank)
    for layer in model.layers_of:
        layer.build((None, side.FEATURES))
    model.built = True
    model.compile(hk.DistributedOptimizer(keras.optimizers.AdamW(1e-2)), loss(), run_eagerly=True)
    hk.attach(model)
    before = [np.array(w) for w in model.get_weights()]
    model.fit(*s.part(x, y, batch=BATCH), batch_size=10, verbose=0)
    s.same(model)
    moved = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [True, True, True, True, False, False], moved


if __name__ == "__main__":
    side.run(globals())

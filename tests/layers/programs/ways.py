"""The same beyond plain `fit`: train steps of one's own, mixed precision, codecs, several optimizers, saving."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import side
from side import BACKEND, BATCH, both, data, loss, network

import hpcdl.keras as hk
from hpcdl.errors import Mismatch


def case_embedding(s):
    """Its gradient comes as slices under TensorFlow. By SGD, since Keras's Adam updates slices otherwise than dense gradients."""
    words = np.arange(60).reshape(30, 2) % 7
    labels = words.sum(1) % 3

    def model(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [keras.Input((2,), dtype="int32"), keras.layers.Embedding(9, 4), keras.layers.Flatten(), keras.layers.Dense(3)]
        )

    models = [model(1), model(1 + s.rank)]
    for m, (x, y), optimizer in zip(
        models, [(words, labels), s.part(words, labels, batch=30)], [lambda o: o, hk.DistributedOptimizer], strict=True
    ):
        m.compile(optimizer(keras.optimizers.SGD(0.1)), loss())
        m.fit(x, y, batch_size=len(x), epochs=3, shuffle=False, verbose=0, callbacks=[hk.BroadcastVariables()] if m is models[1] else [])
    s.same(models[1], models[0])


def case_codec(s):
    """Lossy: the replicas are still bitwise equal."""
    both(s, codec="fp16", tolerance=1e-2)
    both(s, codec="int8", tolerance=1e-1)
    both(s, codec="topk:ratio=0.5", tolerance=1)


def case_mixed_precision(s):
    """One rank alone has an infinity: all skip the same step."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(1 + s.rank)
        model.compile(hk.DistributedOptimizer(keras.optimizers.Adam(1e-2)), loss())
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        mixed(s, model)
    finally:
        keras.config.set_dtype_policy("float32")
    layers = [keras.Input((side.FEATURES,)), keras.layers.Dense(4, dtype="mixed_float16"), keras.layers.Dense(3, dtype="mixed_float16")]
    model = keras.Sequential(layers)
    optimizer = hk.DistributedOptimizer(keras.optimizers.Adam(1e-2))
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer), loss())
    mixed(s, model)


def mixed(s, model):
    x, y = s.part(*data(), batch=BATCH)
    fit = {"batch_size": 10, "shuffle": False, "verbose": 0, "callbacks": [hk.BroadcastVariables()]}
    model.fit(x, y, epochs=2, **fit)
    s.same(model)
    scale, before = float(model.optimizer.dynamic_scale), [np.array(w) for w in model.get_weights()]
    bad = x[:10].copy()
    if s.rank == 1:
        bad[3] = 1e30  # infinite as a float16
    model.fit(bad, y[:10], **fit)
    assert float(model.optimizer.dynamic_scale) == scale / 2, "the scale was not halved"
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True)), "the step was not skipped"
    model.fit(x, y, **fit)
    s.same(model)


def case_train_on_batch(s):
    x, y = data()
    alone, ours = network(1), network(1 + s.rank)
    alone.compile(keras.optimizers.Adam(1e-2), loss())
    ours.compile(hk.DistributedOptimizer("adam"), loss())
    ours.optimizer.learning_rate = 1e-2
    hk.attach(ours)
    cuts = [0, 7, 20, 30]
    for i in range(0, 90, 30):
        alone.train_on_batch(x[i : i + 30], y[i : i + 30])
        mine = slice(i + cuts[s.rank], i + cuts[s.rank + 1])  # 7, 13 and 10 samples
        ours.train_on_batch(x[mine], y[mine])
    s.same(ours, alone)


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


def case_several_optimizers(s):
    """Two models in one process, trained in turn."""
    x, y = data()
    mine = s.part(x, y, batch=BATCH)
    models = []
    for distributed in (False, True):
        pair = [network(seed + s.rank * distributed) for seed in (1, 5)]
        for model, rate in zip(pair, (1e-2, 1e-3), strict=True):
            optimizer = keras.optimizers.Adam(rate)
            model.compile(hk.DistributedOptimizer(optimizer) if distributed else optimizer, loss())
        for _ in range(2):
            for model in pair:
                model.fit(
                    *(mine if distributed else (x, y)),
                    batch_size=BATCH // (s.size if distributed else 1),
                    shuffle=False,
                    verbose=0,
                    callbacks=[hk.BroadcastVariables()] if distributed else [],
                )
        models.append(pair)
    for alone, ours in zip(*models, strict=True):
        s.same(ours, alone)


def case_saving(s):
    """The file is a plain Keras model's: a process without this package loads it and goes on with the optimizer's state."""
    ours, alone = both(s)
    if s.rank:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("ours", ours), ("alone", alone)):
            model.save(Path(folder) / f"{name}.keras")
        script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hpcdl":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import keras, numpy as np
models = [keras.models.load_model({folder!r} + "/" + name + ".keras") for name in ("ours", "alone")]
assert type(models[0].optimizer) is type(models[1].optimizer), models
x, y = np.ones((4, {side.FEATURES}), "float32"), np.zeros(4, int)
for m in models:
    assert int(m.optimizer.iterations) == 9
    m.train_on_batch(x, y)
print(max(np.abs(a - b).max() for a, b in zip(*(m.get_weights() for m in models))))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < 1e-4, done.stdout
    copy = keras.models.clone_model(ours)
    assert "_hpcdl_attached" not in copy.__dict__


def case_models_that_differ(s):
    """One error on every rank, before the first step."""
    x, y = data(30)
    model = keras.Sequential([keras.Input((side.FEATURES,)), keras.layers.Dense(8 + (s.rank == 2)), keras.layers.Dense(3)])
    model.compile(hk.DistributedOptimizer(keras.optimizers.Adam()), loss())
    try:
        model.fit(x, y, verbose=0, callbacks=[hk.BroadcastVariables()])
    except Mismatch as error:
        assert "float32[8, 8] on rank 0 and float32[8, 9] on rank 2" in str(error), error
    else:
        raise AssertionError("no error")
    model = network(1)
    model.compile(keras.optimizers.Adam(), loss())
    try:
        model.fit(x, y, verbose=0, callbacks=[hk.BroadcastVariables()])
    except ValueError as error:
        assert "is not distributed" in str(error), error
    else:
        raise AssertionError("no error")


if __name__ == "__main__":
    side.run(globals())

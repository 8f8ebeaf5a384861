"""The same beyond plain `fit`: mixed precision, codecs, several optimizers, saving."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import side
from side import BATCH, both, data, loss, network

import hpcdl.keras as hk
from hpcdl.errors import Mismatch


def case_embedding(s):
    """Its gradient comes as slices under TensorFlow, which Keras's Adam does not add up before it squares them."""

    def model(seed, words):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [keras.Input((2,), dtype="int32"), keras.layers.Embedding(words, 4), keras.layers.Flatten(), keras.layers.Dense(3)]
        )

    for make, different in ((lambda: keras.optimizers.SGD(0.1), 7), (lambda: keras.optimizers.Adam(1e-2), 60)):
        words = np.arange(60).reshape(30, 2) % different
        labels = words.sum(1) % 3
        models = [model(1, different + 2), model(1 + s.rank, different + 2)]
        models[0].compile(make(), loss())
        models[0].fit(words, labels, batch_size=30, epochs=3, shuffle=False, verbose=0)
        models[1].compile(hk.DistributedOptimizer(make()), loss())
        mine = s.part(words, labels, batch=30)
        models[1].fit(*mine, batch_size=30, epochs=3, shuffle=False, verbose=0, callbacks=[hk.BroadcastVariables()])
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
    cuts = [0, 7, 20, 30] if s.size == 3 else [0, 7, 30]
    for i in range(0, 90, 30):
        alone.train_on_batch(x[i : i + 30], y[i : i + 30])
        mine = slice(i + cuts[s.rank], i + cuts[s.rank + 1])  # as many samples on no two ranks
        ours.train_on_batch(x[mine], y[mine])
    s.same(ours, alone)


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


def case_again(s):
    """A second `fit` begins with rank 0's weights too, of whatever name: here rank 0 has made another model before."""
    x, y = data()
    if s.rank == 0:
        network(1)
    model = network(2 + s.rank)
    model.compile(hk.DistributedOptimizer(hk.DistributedOptimizer("adam", codec="fp16")), loss())  # the last settings hold
    for _ in range(2):
        model.fit(hk.shard(x, y, batch_size=BATCH), verbose=0, callbacks=[hk.BroadcastVariables()])
        s.same(model)
        model.set_weights([w + s.rank for w in model.get_weights()])


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
    model = keras.Sequential([keras.Input((side.FEATURES,)), keras.layers.Dense(8 + (s.rank == s.size - 1)), keras.layers.Dense(3)])
    model.compile(hk.DistributedOptimizer(keras.optimizers.Adam()), loss())
    try:
        model.fit(x, y, verbose=0, callbacks=[hk.BroadcastVariables()])
    except Mismatch as error:
        assert f"float32[8, 8] on rank 0 and float32[8, 9] on rank {s.size - 1}" in str(error), error
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
    if side.BACKEND == "jax":
        return  # whose fit keeps values elsewhere
    model = network(1 + s.rank)
    model.compile(hk.DistributedOptimizer(keras.optimizers.Adam()), loss(), run_eagerly=True)
    try:
        model.fit(x, y, verbose=0)
    except Mismatch as error:
        assert f"the weights with which the ranks begin differ between the {s.size} ranks: '0 kernel' is of digest" in str(error), error
    else:
        raise AssertionError("no error")


if __name__ == "__main__":
    side.run(globals())

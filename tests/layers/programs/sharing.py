"""Shared data: the law with uneven parts; metrics, evaluate and predict of all ranks' samples."""

from __future__ import annotations

import math

import keras
import numpy as np
import side
from side import data, loss, network

import hpcdl.keras as hk
from hpcdl.errors import InvalidArgument
from hpcdl.shards import Shards

ADAM = 1e-2


def metrics():
    return ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2), Highest()]


class Highest(keras.metrics.Metric):
    """Keeps no sum, so it can only be averaged."""

    def __init__(self, name="highest", **more):
        super().__init__(name=name, **more)
        self.most = self.add_variable((), "zeros", name="most")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(keras.ops.maximum(self.most, keras.ops.max(y_pred)))

    def result(self):
        return self.most


def compiled(model, distributed, **more):
    optimizer = keras.optimizers.Adam(ADAM)
    model.compile(hk.DistributedOptimizer(optimizer) if distributed else optimizer, loss(), **more)
    return model


def alone(batches, seed=1, **more):
    """One process on these batches."""
    model = compiled(network(seed, **more), False)
    for x, y in batches:
        model.train_on_batch(x, y)
    return model


def fitted(s, shared, epochs, **more):
    model = compiled(network(1 + s.rank), True)
    model.fit(shared, epochs=epochs, verbose=0, callbacks=[hk.BroadcastVariables()], **more)
    return model


def case_arrays(s):
    """Whole batches, a last one, batches smaller than the number of ranks; shuffled."""
    x, y = data(89)
    for size, epochs in ((30, 3), (29, 2), (2, 1)):
        order = [b for epoch in range(epochs) for b in Shards(89, size).batches(epoch)]
        s.same(fitted(s, hk.shard(x, y, batch_size=size), epochs), alone((x[b], y[b]) for b in order))
    s.same(
        fitted(s, hk.shard((x, y), batch_size=30, shuffle=False, drop_last=True), 1), alone((x[i : i + 30], y[i : i + 30]) for i in (0, 30))
    )


def case_sample_weights(s):
    x, y = data(89)
    weights = np.random.default_rng(1).uniform(0, 2, 89).astype("float32")
    weights[:15] = 0
    ours = compiled(network(1 + s.rank), True)
    ours.fit(hk.shard(x, y, weights, batch_size=29, shuffle=False), epochs=2, verbose=0, callbacks=[hk.BroadcastVariables()])
    reference = compiled(network(1), False)
    reference.fit(x, y, sample_weight=weights, batch_size=29, epochs=2, shuffle=False, verbose=0)
    s.same(ours, reference)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return math.ceil(len(self.x) / self.size)

    def __getitem__(self, i):
        return self.x[i * self.size : (i + 1) * self.size], self.y[i * self.size : (i + 1) * self.size]


def case_py_dataset(s):
    x, y = data(89)
    for size, epochs in ((29, 2), (11, 1)):
        batches = Batches(x, y, size)
        order = [i for epoch in range(epochs) for i in np.random.default_rng((0, epoch)).permutation(len(batches))]
        s.same(fitted(s, hk.shard(batches), epochs), alone(batches[i] for i in order))


def case_tf_data(s):
    import tensorflow as tf

    x, y = data(89)
    made = lambda: tf.data.Dataset.from_tensor_slices((x, y)).shuffle(89, seed=3).batch(29)  # noqa: E731
    ours = fitted(s, hk.shard(made()), 1)
    assert ours.optimizer.iterations == 4
    s.same(ours)
    unseeded = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(89, seed=s.rank).batch(29)
    try:
        hk.shard(unseeded)
    except InvalidArgument as error:
        assert "own=True" in str(error), error
    else:
        raise AssertionError("no error")
    ordered = tf.data.Dataset.from_tensor_slices((x, y)).batch(29)
    s.same(fitted(s, hk.shard(ordered), 2), alone((x[i : i + 29], y[i : i + 29]) for _ in range(2) for i in (0, 29, 58, 87)))


def case_torch_loader(s):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = data(89)
    set_of = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for shuffle in (False, True):
        order = [b for epoch in range(2) for b in Shards(89, 29, shuffle=shuffle).batches(epoch)]
        ours = fitted(s, hk.shard(DataLoader(set_of, batch_size=29, shuffle=shuffle)), 2)
        s.same(ours, alone((x[b], y[b]) for b in order))


def case_own_batches(s):
    """Ranks with 1, 2 and 3 batches of different sizes."""
    x, y = data(90)
    sizes = [[7], [5, 9], [4, 8, 3]]
    cuts, at = [], 0
    for rank in range(s.size):
        cuts.append([])
        for size in sizes[rank]:
            cuts[-1].append((x[at : at + size], y[at : at + size]))
            at += size
    joined = []
    for step in range(3):
        parts = [cut[step] for cut in cuts if step < len(cut)]
        joined.append(tuple(np.concatenate(part) for part in zip(*parts, strict=True)))
    s.same(fitted(s, hk.shard(cuts[s.rank], own=True), 2), alone([*joined, *joined]))
    try:
        hk.shard([] if s.rank == 1 else cuts[0], own=True)
    except InvalidArgument as error:
        assert "rank 1 of 3 has no batch" in str(error), error
    else:
        raise AssertionError("no error")


def case_settings_that_differ(s):
    x, y = data(89)
    for shared in (lambda: hk.shard(x[s.rank :], y[s.rank :]), lambda: hk.shard(x, y, batch_size=8 + s.rank)):
        try:
            shared()
        except InvalidArgument as error:
            assert "differ in" in str(error), error
        else:
            raise AssertionError("no error")


def case_metrics(s):
    """Logs, evaluate and predict are those of one process, uneven parts and stand-ins included."""
    x, y = data(89)
    vx, vy = data(64)
    results = []
    for distributed in (False, True):
        model = compiled(network(1), distributed, metrics=metrics())
        seen = []
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, seen=seen: seen.append(dict(logs)))
        if distributed:
            callbacks = [hk.BroadcastVariables(), hk.AverageMetrics(), note]
            history = model.fit(
                hk.shard(x, y, batch_size=29, shuffle=False),
                validation_data=hk.shard(vx, vy, batch_size=31),
                epochs=2,
                verbose=0,
                callbacks=callbacks,
            )
            assert history.history["loss"] == [logs["loss"] for logs in seen]
            told = model.evaluate(hk.shard(vx, vy, batch_size=31), verbose=0)
            named = model.evaluate(hk.shard(vx, vy, batch_size=2), verbose=0, return_dict=True)
            rows = [model.predict(hk.shard(vx, batch_size=size), verbose=0) for size in (31, 2)]
            plain = model.evaluate(vx, vy, verbose=0, return_dict=True)
        else:
            model.fit(x, y, batch_size=29, shuffle=False, validation_data=(vx, vy), epochs=2, verbose=0, callbacks=[note])
            told = model.evaluate(vx, vy, verbose=0)
            plain = named = model.evaluate(vx, vy, verbose=0, return_dict=True)
            rows = [model.predict(vx, verbose=0)] * 2
        results.append((seen, told, named, plain, rows))
    one, ours = results
    exact = ("loss", "accuracy", "sparse_top_k_categorical_accuracy")
    for a, b in zip(one[0], ours[0], strict=True):
        assert set(a) == set(b), (a, b)
        for name in exact:
            assert abs(a[name] - b[name]) < 1e-5 and abs(a[f"val_{name}"] - b[f"val_{name}"]) < 1e-5, (name, a, b)
    assert np.allclose(one[1][:3], ours[1][:3], atol=1e-5), (one[1], ours[1])
    assert all(abs(one[2][name] - found[name]) < 1e-5 for name in exact for found in (ours[2], ours[3])), (one[2], ours[2])
    for rows in ours[4]:
        assert rows.shape == (64, side.CLASSES)
        assert np.allclose(rows, one[4][0], atol=1e-4)
    everyone = s.world.allgather(np.array([list(logs.values()) for logs in ours[0]])[None])
    assert (everyone == everyone[0]).all(), "ranks have different logs"


def case_sums_that_are_no_means(s):
    """AUC keeps counts at thresholds, which add up; the mean of the ranks' AUCs would be something else."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 4)).astype("float32")
    y = (x[:, 0] + rng.normal(size=60) > 0).astype("float32")
    found = []
    for distributed in (False, True):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
        optimizer = keras.optimizers.SGD(0.0)
        model.compile(
            hk.DistributedOptimizer(optimizer) if distributed else optimizer, "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")]
        )
        if distributed:
            hk.attach(model)
            found.append(model.evaluate(hk.shard(x, y, batch_size=25), verbose=0, return_dict=True)["auc"])
        else:
            found.append(model.evaluate(x, y, verbose=0, return_dict=True)["auc"])
    assert abs(found[0] - found[1]) < 1e-6, found


def case_moving_averages(s):
    """A stand-in changes no statistics: with batches of one sample, ranks 1 and 2 never have any."""
    x, y = data(6)
    model = network(1, norm=True)
    compiled(model, True)
    before = [np.array(w) for w in model.layers[1].non_trainable_weights]
    model.fit(hk.shard(x, y, batch_size=1), verbose=0, callbacks=[hk.BroadcastVariables()])
    after = [np.array(w) for w in model.layers[1].non_trainable_weights]
    changed = any((a != b).any() for a, b in zip(before, after, strict=True))
    assert changed == (s.rank == 0), f"changed: {changed}"


def case_rates(s):
    x, y = data(90)
    model = compiled(network(1), True)
    rates = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: rates.append(float(model.optimizer.learning_rate)))
    callbacks = [hk.BroadcastVariables(), hk.LearningRateWarmup(epochs=2), hk.LearningRateSchedule(0.1, start_epoch=3), note]
    history = model.fit(hk.shard(x, y, batch_size=30), epochs=4, verbose=0, callbacks=callbacks)
    wanted = [ADAM * (1 / 3 + 2 / 3 * (i + 1) / 6) for i in range(6)] + [ADAM] * 3 + [ADAM / 10] * 3
    assert np.allclose(rates, wanted), (rates, wanted)
    assert np.isclose(history.history["learning_rate"][-1], ADAM / 10)


def case_callbacks_of_one_rank(s):
    ran = []
    callback = hk.OnRank0(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ran.append(epoch)))

    class Stub(keras.callbacks.Callback):
        """The ranks' losses disagree on when to stop."""

        def on_epoch_end(self, epoch, logs=None):
            logs["loss"] = 1.0 if s.rank == 0 and epoch > 1 else 1.0 / (epoch + 1)

    x, y = data(90)
    model = compiled(network(1), True)
    stop = hk.EarlyStopping(monitor="loss", patience=2, restore_best_weights=True)
    history = model.fit(hk.shard(x, y, batch_size=30), epochs=9, verbose=0, callbacks=[hk.BroadcastVariables(), callback, Stub(), stop])
    assert len(history.epoch) == 4, history.epoch
    assert ran == ([0, 1, 2, 3] if s.rank == 0 else [])
    s.same(model)


if __name__ == "__main__":
    side.run(globals())

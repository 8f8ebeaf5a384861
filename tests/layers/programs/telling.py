"""What is told of the training: metrics, evaluate and predict of all ranks' samples; callbacks that all ranks follow alike."""

from __future__ import annotations

import keras
import numpy as np
import side
from side import ADAM, BACKEND, compiled, data, loss, network

import hpcdl.keras as hk
from hpcdl.errors import Mismatch


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
        return self.most + 0


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


class Extremes(keras.metrics.Metric):
    """Several numbers, none of which is a sum."""

    def __init__(self, name="extremes", **more):
        super().__init__(name=name, **more)
        self.inner = Highest()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.inner.update_state(y_true, y_pred)

    def result(self):
        return {"most": self.inner.result(), "both": keras.ops.stack([self.inner.result(), -self.inner.result()])}

    def reset_state(self):
        self.inner.reset_state()


def case_metrics_of_many_numbers(s):
    """One for each class, which is exact; a dict of several; two of one name."""
    x, y = data(89)
    found = []
    for distributed in (False, True):
        model = network(1)
        optimizer = keras.optimizers.SGD(0.0)
        metrics = [keras.metrics.F1Score(average=None), Highest(), Highest(), Extremes()]
        model.compile(hk.DistributedOptimizer(optimizer) if distributed else optimizer, "mse", metrics=metrics)
        given = (x, np.eye(side.CLASSES, dtype="float32")[y])
        if distributed:
            hk.attach(model)
        found.append(model.evaluate(*([hk.shard(*given, batch_size=29)] if distributed else given), verbose=0, return_dict=True))
    one, ours = found
    assert set(one) == set(ours), (one, ours)
    assert np.allclose(one["f1_score"], ours["f1_score"], atol=1e-6) and len(ours["f1_score"]) == side.CLASSES, found
    parts = [np.array_split(x[i : i + 29], s.size)[s.rank] for i in range(0, 89, 29)]
    highest = float(network(1).predict(np.concatenate(parts), verbose=0).max()), sum(map(len, parts))
    everyone = s.world.allgather(np.array([highest]))
    mean = (everyone[:, 0] * everyone[:, 1]).sum() / 89
    assert np.allclose([ours["highest"], ours["highest_1"], ours["most"], *ours["both"]], [mean, mean, mean, mean, -mean], atol=1e-4), ours


def case_moving_averages(s):
    """Of a layer that normalizes: the mean over ranks. A stand-in changes none: of batches of one sample, ranks 1 and 2 have none."""
    x, y = data(6)
    alone = compiled(network(1, norm=True), False)
    alone.fit(x, y, batch_size=1, shuffle=False, verbose=0)
    model = compiled(network(1 + s.rank, norm=True), True)
    model.fit(hk.shard(x, y, batch_size=1, shuffle=False), verbose=0, callbacks=[hk.BroadcastVariables()])
    s.same(model, alone)
    x, y = data(90)
    alone = keras.Sequential([keras.Input((side.FEATURES,)), keras.layers.BatchNormalization(), keras.layers.Dense(side.CLASSES)])
    model = keras.models.clone_model(alone)
    for m, distributed in ((alone, False), (model, True)):
        optimizer = keras.optimizers.SGD(0.0)
        m.compile(hk.DistributedOptimizer(optimizer) if distributed else optimizer, loss())
    alone.fit(x, y, batch_size=30, shuffle=False, verbose=0)
    valid = [x[:30], y[:30]]
    model.fit(hk.shard(x, y, batch_size=30, shuffle=False), verbose=0, validation_data=valid, callbacks=[hk.BroadcastVariables()])
    s.same(model)
    assert np.allclose(model.layers[0].moving_mean, alone.layers[0].moving_mean, atol=1e-5)


def case_rates(s):
    x, y = data(90)
    model = compiled(network(1), True)
    rates = []

    def see(batch, logs):
        if BACKEND == "jax":
            model.jax_state_sync()
        rates.append(float(model.optimizer.learning_rate))

    note = keras.callbacks.LambdaCallback(on_train_batch_end=see)
    callbacks = [hk.BroadcastVariables(), hk.LearningRateWarmup(epochs=2), hk.LearningRateSchedule(0.1, start_epoch=3), note]
    history = model.fit(hk.shard(x, y, batch_size=30), epochs=4, verbose=0, callbacks=callbacks)
    wanted = [ADAM * (1 / s.size + (1 - 1 / s.size) * (i + 1) / 6) for i in range(6)] + [ADAM] * 3 + [ADAM / 10] * 3
    assert np.allclose(rates, wanted), (rates, wanted)
    assert np.isclose(history.history["learning_rate"][-1], ADAM / 10)
    again = [hk.BroadcastVariables(), hk.LearningRateWarmup(epochs=2)]
    model.fit(hk.shard(x, y, batch_size=30), epochs=2, verbose=0, callbacks=again)
    assert np.isclose(float(model.optimizer.learning_rate), ADAM), "the rate that it had at first"
    drifting = keras.callbacks.LearningRateScheduler(lambda epoch: ADAM / (1 + s.rank // (s.size - 1) * epoch))
    try:
        model.fit(hk.shard(x, y, batch_size=30), epochs=4, verbose=0, callbacks=[hk.BroadcastVariables(), drifting])
    except Mismatch as error:
        assert "the learning rates differ" in str(error) and f"on rank {s.size - 1}" in str(error), error
    else:
        raise AssertionError("no error")


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


class Bare(keras.Model):
    """Tells numbers that no metric keeps."""

    def test_step(self, *arguments):
        told = super().test_step(*arguments)
        own = {"own": 1.0 + hk.rank()}
        return (own, told[1]) if isinstance(told, tuple) else own


def case_other_logs(s):
    """Numbers of a step of one's own, and of other callbacks: the mean over ranks."""
    x, y = data(90)
    inputs = keras.Input((side.FEATURES,))
    model = compiled(Bare(inputs, keras.layers.Dense(side.CLASSES)(inputs)), True)
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(noted=float(s.rank)))
    callbacks = [hk.BroadcastVariables(), note, hk.AverageMetrics()]
    history = model.fit(hk.shard(x, y), verbose=0, validation_data=hk.shard(x, y), callbacks=callbacks).history
    middle = (s.size - 1) / 2
    assert history["noted"] == [middle] and np.isclose(history["val_own"][0], 1 + middle), history
    assert set(model.evaluate(hk.shard(x, y), verbose=0, return_dict=True)) == {"own"}


def case_not_a_number(s):
    """On one rank: all stop after that batch."""
    x, y = data(90)
    mine = [(x[i : i + 10] * (np.nan if s.rank == 1 and i == 20 else 1), y[i : i + 10]) for i in range(0, 90, 10)]
    model = compiled(network(1), True)
    model.fit(hk.shard(mine, own=True), epochs=3, verbose=0, callbacks=[hk.BroadcastVariables(), hk.TerminateOnNaN()])
    if BACKEND == "jax":
        model.jax_state_sync()
    assert int(model.optimizer.iterations) == 3, model.optimizer.iterations


if __name__ == "__main__":
    side.run(globals())

"""Horovod's front for Keras, on each backend: the same as one process on the joined batch; its settings, callbacks, values, states."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np
from side import BACKEND, BATCH, EPOCHS, data, loss, network, run

import hpcdl.horovod.keras as hvd
from hpcdl.errors import HpcdlError
from hpcdl.horovod.errors import HorovodInternalError

hvd.init(process_sets="dynamic")


def fitted(s, optimizer, epochs=EPOCHS, model=None, more=(), batch=None, **settings):
    """`fit` in Horovod's style, by all ranks."""
    x, y = data()
    model = model or network(1 + s.rank)
    model.compile(optimizer, loss(), metrics=["accuracy"], **settings)
    mine = s.part(x, y, batch=batch or BATCH)
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0), *more]
    history = model.fit(*mine, batch_size=(batch or BATCH) // s.size, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return model, history


def alone(optimizer, epochs=EPOCHS, batch=BATCH, callbacks=()):
    """One process on the joined batch."""
    x, y = data()
    model = network(1)
    model.compile(optimizer, loss(), metrics=["accuracy"])
    return model, model.fit(x, y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))


def case_equal_to_one(s) -> None:
    reference, _ = alone(keras.optimizers.Adam(1e-2))
    model, _ = fitted(s, hvd.DistributedOptimizer(keras.optimizers.Adam(1e-2)))
    s.same(model, reference)
    model, _ = fitted(s, hvd.DistributedOptimizer(keras.optimizers.Adam(1e-2), gradient_predivide_factor=2.0, groups=2))
    s.same(model, reference)
    model, _ = fitted(s, hvd.DistributedOptimizer(keras.optimizers.Adam(1e-2), compression=hvd.Compression.fp16))
    s.same(model, reference, 2e-2)
    reference, _ = alone(keras.optimizers.SGD(0.3, momentum=0.9))
    model, _ = fitted(s, hvd.DistributedOptimizer(keras.optimizers.SGD(0.3 / s.size, momentum=0.9), op=hvd.Sum))
    s.same(model, reference)


def case_passes(s) -> None:
    """Three batches make one step, which is that of their joined batch; the sums of several passes, or their means."""
    reference, _ = alone(keras.optimizers.SGD(0.3, momentum=0.9), batch=90, epochs=4)
    for average in (True, False):
        rate = 0.3 if average else 0.1
        settings = {"backward_passes_per_step": 3, "average_aggregated_gradients": average}
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(rate, momentum=0.9), **settings)
        model, _ = fitted(s, optimizer, epochs=4)
        s.same(model, reference)
    try:
        hvd.DistributedOptimizer(optimizer, backward_passes_per_step=2)
    except ValueError as error:
        assert "make a new one" in str(error)
    else:
        raise AssertionError


def case_error_feedback(s) -> None:
    """Of 300 elements 3 travel in each step; what does not is not lost."""
    v = keras.Variable(np.zeros(300), dtype="float32")
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), compression=hvd.Compression.topk)
    for _ in range(150):
        optimizer.apply([keras.ops.ones(300) * (1.0 + s.rank)], [v])
    moved = -keras.ops.convert_to_numpy(v)
    assert moved.min() >= 40 * 2.0 and moved.sum() > 0.5 * 150 * 300 * 2.0, (moved.min(), moved.sum())


def case_own_compression(s) -> None:
    class Halved(hvd.Compression.none):
        codec = None

        @staticmethod
        def compress(tensor):
            return tensor * 0.5, 2.0

        @staticmethod
        def decompress(tensor, ctx):
            return tensor * ctx

    reference, _ = alone(keras.optimizers.Adam(1e-2), epochs=1)
    s.same(fitted(s, hvd.DistributedOptimizer(keras.optimizers.Adam(1e-2), compression=Halved), epochs=1)[0], reference)


def case_local_layers(s) -> None:
    """What is local gets this rank's gradients, and no broadcast, and the others are averaged."""
    x, y = data()
    model = network(1 + s.rank)
    local = model.layers[-1].trainable_weights
    optimizer = hvd.PartialDistributedOptimizer(keras.optimizers.SGD(0.3), local_layers=model.layers[-1])
    model.compile(optimizer, loss())
    assert model.layers[-1].trainable_weights is not None
    mine = s.part(x, y, batch=30)
    before = [w.numpy() if BACKEND == "tensorflow" else np.array(keras.ops.convert_to_numpy(w)) for w in local]
    keeps = hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=list(local))
    model.fit(*mine, batch_size=10, verbose=0, callbacks=[keeps])
    kernel = np.array(keras.ops.convert_to_numpy(local[0]))
    everyone = s.world.allgather(kernel[None])
    assert not (everyone[0] == everyone[1]).all() and not (kernel == before[0]).all()
    first = s.world.allgather(np.array(keras.ops.convert_to_numpy(model.layers[0].kernel))[None])
    assert (first == first[0]).all()


def case_process_set(s) -> None:
    """Two ranks train together, the third by itself."""
    pair = hvd.add_process_set([0, 1])
    try:
        x, y = data(60)
        part = slice(s.rank % 2, None, 2) if s.rank < 2 else slice(None)
        model = network(1)
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.3), process_set=pair), loss())
        model.fit(x[part], y[part], batch_size=60, epochs=3, verbose=0, shuffle=False)
        reference = network(1)
        reference.compile(keras.optimizers.SGD(0.3), loss())
        reference.fit(x, y, batch_size=60, epochs=3, verbose=0, shuffle=False)
        for w, r in zip(model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(w, r, atol=1e-5)
    finally:
        hvd.remove_process_set(pair)


class Rates(keras.callbacks.Callback):
    """Writes down the rate of each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


def case_callbacks(s) -> None:
    rates, optimizer = Rates(), hvd.DistributedOptimizer(keras.optimizers.Adam(0.03))
    with tempfile.TemporaryDirectory() as folder:
        best = hvd.callbacks.BestModelCheckpoint(monitor="loss")
        best.filepath = str(Path(folder, "best.keras"))
        more = [
            hvd.callbacks.MetricAverageCallback(),
            hvd.callbacks.LearningRateWarmupCallback(initial_lr=0.03, warmup_epochs=2, verbose=0),
            hvd.callbacks.LearningRateScheduleCallback(0.03, 0.5, start_epoch=2),
            rates,
            *([best] if s.rank == 0 else []),
        ]
        model, history = fitted(s, optimizer, epochs=4, more=more)
        if s.rank == 0:
            assert isinstance(keras.models.load_model(best.filepath).optimizer, keras.optimizers.Adam)
    ramp = [0.01 + 0.02 * (batch + 1) / 6 for batch in range(6)]
    np.testing.assert_allclose(rates.seen, [*ramp, *[0.03] * 3, *[0.015] * 3], rtol=1e-5)
    np.testing.assert_allclose(history.history["lr"], [0.02, 0.03, 0.03, 0.015], rtol=1e-5)
    logs = [history.history["loss"][-1], history.history["accuracy"][-1]]
    everyone = s.world.allgather(np.array(logs)[None])
    assert (everyone == everyone[0]).all() and model.metrics_names
    try:
        fitted(s, hvd.DistributedOptimizer(keras.optimizers.Adam()), more=[hvd.callbacks.BestModelCheckpoint()])
    except ValueError as error:
        assert "callback.filepath" in str(error)
    else:
        raise AssertionError


def case_momentum_correction(s) -> None:
    """What momentum has gathered is scaled as the rate is, at each change: SGD written out by hand."""
    schedule = hvd.callbacks.LearningRateScheduleCallback(0.2, lambda epoch: 0.5**epoch)
    model, _ = fitted(s, hvd.DistributedOptimizer(keras.optimizers.SGD(0.2, momentum=0.9)), more=[schedule], batch=90)

    class ByHand(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if BACKEND == "jax":
                self.model.jax_state_sync()
            self.model.optimizer.learning_rate = 0.2 * 0.5**epoch
            for v in self.model.optimizer.momentums if epoch else ():
                v.assign(v.value * 0.5)

    s.same(model, alone(keras.optimizers.SGD(0.2, momentum=0.9), batch=90, callbacks=[ByHand()])[0])


def case_plain_optimizer(s) -> None:
    """A model that does not average has its beginning broadcast all the same, from any rank."""
    model = network(1 + s.rank)
    model.compile(keras.optimizers.SGD(0.0), loss())
    x, y = data()
    model.fit(x, y, verbose=0, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(2)])
    s.same(model, network(3), 0)


def case_values(s) -> None:
    n, r = s.size, s.rank

    def told(x):
        return np.array(keras.ops.convert_to_numpy(x)).tolist()

    assert told(hvd.allreduce(float(r))) == (n - 1) / 2
    assert told(hvd.allreduce(np.ones(2, np.float32), average=False)) == [n, n]
    assert told(hvd.allreduce(np.ones(2, np.float32), name="named", op=hvd.Sum, prescale_factor=2.0)) == [2 * n, 2 * n]
    assert told(hvd.allgather(np.full(r + 1, r))) == [rank for rank in range(n) for _ in range(rank + 1)]
    assert told(hvd.broadcast([float(r), 1.0], 1)) == [1.0, 1.0]
    assert told(hvd.reducescatter(np.arange(3.0, dtype=np.float32), op=hvd.Sum)) == [n * r]
    assert (hvd.rank(), hvd.size()) == (r, n)
    for wrong, why in (
        (lambda: hvd.broadcast_global_variables(0), "BroadcastGlobalVariablesCallback"),
        (lambda: hvd.broadcast(1.0, 9), "root"),
    ):
        try:
            wrong()
        except (RuntimeError, ValueError) as error:
            assert why in str(error), error
        else:
            raise AssertionError(why)
    try:
        hvd.allreduce(np.ones(2 + r // 2, np.float32), name="unlike")
    except HorovodInternalError as error:
        assert "ranks disagree on 'unlike'" in str(error)
    else:
        raise AssertionError


def case_load_model(s) -> None:
    """A saved model goes on as if it had never been saved, by all ranks."""
    x, y = data()
    mine = s.part(x, y, batch=BATCH)
    model, _ = fitted(s, hvd.DistributedOptimizer(keras.optimizers.Adam(1e-2)), epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.keras"))
        model.save(path)
        loaded = hvd.load_model(path)
    for each in (model, loaded):
        each.fit(*mine, batch_size=BATCH // s.size, epochs=1, shuffle=False, verbose=0)
    s.same(loaded, model, 0)


def case_elastic(s) -> None:
    """`fit` that goes on from the last commit after an error; the state knows what was done."""
    x, y = data()
    mine = s.part(x, y, batch=BATCH)
    model = network(1 + s.rank)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(1e-2)), loss())
    state = hvd.elastic.KerasState(model, batch=0, epoch=0, seen=[])
    raised = []

    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if state.epoch == 1 and batch == 1 and not raised:
                raised.append(batch)
                raise HorovodInternalError("somebody was lost")

    @hvd.elastic.run
    def train(state):
        callbacks = [
            Fails(),
            hvd.elastic.UpdateEpochStateCallback(state),
            hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.CommitStateCallback(state, 3),
        ]
        left = 3 - state.epoch
        model.fit(*mine, batch_size=BATCH // s.size, epochs=left, shuffle=False, verbose=0, callbacks=callbacks)

    train(state)
    assert raised and state.epoch == 3 and state.batch == 0
    s.same(model, alone(keras.optimizers.Adam(1e-2))[0])
    try:
        hvd.elastic.KerasState(network(1, known=False))
    except HpcdlError as error:
        assert "must be built first" in str(error)
    else:
        raise AssertionError


if __name__ == "__main__":
    run(globals())

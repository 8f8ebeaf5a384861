"""Horovod's front for TensorFlow: operations, eagerly and in graphs, their derivatives, the tape, optimizers, errors, states."""

from __future__ import annotations

import copy
import gc

import keras
import numpy as np
import tensorflow as tf
from side import BATCH, EPOCHS, FEATURES, data, loss, network, run

import hpcdl.horovod.tensorflow as hvd
import hpcdl.horovod.tensorflow.keras as hvd_keras
from hpcdl.horovod.alias import answer_horovod
from hpcdl.horovod.errors import HorovodInternalError
from hpcdl.horovod.tensorflow import dropped

hvd.init(process_sets="dynamic")
DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.uint8, tf.int32, tf.int64)


def lists(tensors):
    return [np.asarray(x).tolist() for x in tensors]


def case_operations(s) -> None:
    """The same at once and in a graph, where one follows the other; shapes are known as far as they can be."""
    n, r = s.size, s.rank

    def everything():
        x = tf.range(float(n)) + r
        out = [hvd.allreduce(tf.cast(tf.range(3) + r, dtype), op=hvd.Sum) for dtype in DTYPES]
        out += [hvd.allreduce(x), hvd.allreduce(x, op=hvd.Max), hvd.allreduce(x, op=hvd.Min, name="least"), hvd.allreduce(2.0)]
        out += [hvd.allreduce(x, op=hvd.Product), hvd.allreduce(x, average=False, prescale_factor=0.5, postscale_factor=3.0)]
        out += [hvd.allreduce(x, compression=hvd.Compression.fp16), hvd.allreduce(x, compression=hvd.Compression.int8)]
        out += hvd.grouped_allreduce([x, tf.cast(x, tf.int64)], op=hvd.Sum)
        out += [hvd.allgather(x[: r + 1]), hvd.allgather(x[None] > 1), *hvd.grouped_allgather([x, tf.range(r)])]
        out += [hvd.broadcast(x, 1), *hvd.alltoall(tf.repeat(x, 2), splits=[1] * n), hvd.alltoall(x)]
        out += [hvd.reducescatter(x, op=hvd.Sum), *hvd.grouped_reducescatter([x, x])]
        for _ in tf.range(2):
            x += hvd.allreduce(x)
            hvd.barrier()
        slices = hvd.allreduce(tf.IndexedSlices(tf.ones((2, 2)) * r, tf.constant([0, r]), tf.constant([n, 2])))
        out += [x, tf.convert_to_tensor(slices), *map(tf.convert_to_tensor, hvd.grouped_allreduce([slices, x]))]
        return [*out, hvd.size_op(), hvd.rank_op(), hvd.local_rank_op(), hvd.local_size_op(), hvd.process_set_included_op()]

    at_once, graph = everything(), tf.function(everything)
    compiled = graph()
    for i, (eager, later) in enumerate(zip(at_once, compiled, strict=True)):
        np.testing.assert_allclose(np.asarray(eager, float), np.asarray(later, float), rtol=1e-6, err_msg=str(i))
    assert [x.dtype for x in at_once] == [x.dtype for x in compiled]
    whole = np.arange(n)[None] + np.arange(n)[:, None]
    kinds = len(DTYPES)
    for i, wanted in enumerate([whole.mean(0), whole.max(0), whole.min(0), 2.0, whole.prod(0), whole.sum(0) * 1.5, whole.mean(0)]):
        np.testing.assert_allclose(at_once[kinds + i], wanted, rtol=1e-3)
    for out, dtype in zip(at_once, DTYPES, strict=False):
        assert out.dtype == dtype and np.asarray(out, float).tolist() == [n * i + n * (n - 1) / 2 for i in range(3)]
    assert compiled[-5:] and lists(at_once[-5:]) == [n, r, r, n, 1]
    assert int(hvd.process_set_included_op(9)) == -3


def case_derivatives(s) -> None:
    """Those of a loss that is averaged over the ranks, as in Horovod; also of second order."""
    n, r = s.size, s.rank
    x = tf.Variable(tf.range(float(n)) + r)
    calls = [
        (hvd.allreduce, lambda g: g.mean(0)),
        (lambda v: hvd.allreduce(v, op=hvd.Sum, prescale_factor=2.0), lambda g: 2 * g.sum(0)),
        (lambda v: hvd.grouped_allreduce([v])[0], lambda g: g.mean(0)),
        (lambda v: hvd.broadcast(v, 1), lambda g: g.mean(0) * (r == 1)),
        (lambda v: hvd.allgather(v[: r + 1]), None),
        (hvd.alltoall, None),
        (lambda v: hvd.alltoall(v, splits=[1, 0, 1])[0], None),
        (lambda v: hvd.reducescatter(v, op=hvd.Sum), lambda g: n * g.reshape(-1)),
    ]
    for i, (call, wanted) in enumerate(calls):

        def derived(call=call):
            with tf.GradientTape() as tape:
                out = call(x)
                scale = tf.range(1.0, 1.0 + tf.cast(tf.shape(out)[0], tf.float32)) * (r + 1.0)
                total = tf.reduce_sum(out * scale)
            return tape.gradient(total, x), scale

        (eager, scale), (graph, _) = derived(), tf.function(derived)()
        assert eager.shape == x.shape, i
        np.testing.assert_allclose(eager, graph, rtol=1e-6, err_msg=str(i))
        if wanted is not None:
            everyone = s.world.allgather(np.asarray(scale)[None])
            np.testing.assert_allclose(eager, wanted(everyone), rtol=1e-6, err_msg=str(i))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            cube = tf.reduce_sum(hvd.allreduce(x, op=hvd.Sum) ** 3)
        first = inner.gradient(cube, x)
    np.testing.assert_allclose(outer.gradient(first, x), n**3 * 6 * np.asarray(hvd.allreduce(x, op=hvd.Sum)) / n, rtol=1e-5)


def trained(s, optimizer, make_tape, graph=True, epochs=EPOCHS, part=True, width=None):
    """A loop of one's own, in Horovod's style."""
    x, y = data()
    model, criterion = network(1 + s.rank if part else 1), loss()
    mine = s.part(x, y, batch=BATCH) if part else (x, y)
    batch = BATCH // s.size if part else BATCH

    def step(x, y, first):
        with tf.GradientTape() as tape:
            value = criterion(y, model(x, training=True))
        tape = make_tape(tape)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        if first and part:
            hvd.broadcast_variables(model.variables, root_rank=0)
            hvd.broadcast_variables(optimizer.variables, root_rank=0)
        return value

    if part:
        hvd.broadcast_variables(model.variables, root_rank=0)
    run_step = tf.function(step) if graph else step
    for epoch in range(epochs):
        for i in range(0, len(mine[0]), batch):
            run_step(tf.constant(mine[0][i : i + batch]), tf.constant(mine[1][i : i + batch]), epoch == i == 0)
    return model


class Halved(hvd.Compression.none):
    codec = None

    @staticmethod
    def compress(tensor):
        return tf.cast(tensor * 0.5, tf.float64), tensor.dtype

    @staticmethod
    def decompress(tensor, ctx):
        return tf.cast(tensor, ctx) * 2.0


def case_tape(s) -> None:
    reference = trained(s, keras.optimizers.Adam(1e-2), lambda tape: tape, part=False)
    for settings in ({}, {"groups": 2}, {"gradient_predivide_factor": 3.0}, {"compression": Halved}):
        model = trained(s, keras.optimizers.Adam(1e-2), lambda tape, settings=settings: hvd.DistributedGradientTape(tape, **settings))
        s.same(model, reference)
    s.same(trained(s, keras.optimizers.Adam(1e-2), hvd.DistributedGradientTape, graph=False), reference)
    for wrong in ({"op": hvd.Sum, "gradient_predivide_factor": 2.0}, {"groups": "all"}):
        try:
            hvd.DistributedGradientTape(tf.GradientTape(), **wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)


def case_tape_results(s) -> None:
    """Sparse gradients, gathered or dense; local sources; missing gradients; structures; a group of variables; process sets."""
    n, r = s.size, s.rank
    table, bias, other = tf.Variable(tf.ones((n, 2))), tf.Variable([1.0, 2.0]), tf.Variable(3.0)
    pair = hvd.add_process_set([0, 1])

    def gradients(**settings):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.gather(table, [r]) * bias) * (r + 1.0)
        tape = hvd.DistributedGradientTape(tape, **settings)
        tape.register_local_source(bias)
        return tape.gradient(value, {"t": table, "b": bias, "o": other})

    def pairs():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(bias) * other * (r + 1.0)
        tape = hvd.DistributedGradientTape(tape, groups=[[bias, other]], op=hvd.Sum, scale_local_gradients=False)
        return tape.get_local_and_global_gradients(value, [bias, other], use_generic_names=True)[1]

    try:
        for wrap in (lambda f: f, tf.function):
            found = wrap(gradients)()
            assert isinstance(found["t"], tf.IndexedSlices) and found["o"] is None
            wanted = (np.arange(n)[:, None] + 1) * np.array([1.0, 2.0]) / n
            np.testing.assert_allclose(tf.convert_to_tensor(found["t"]), wanted, rtol=1e-6)
            np.testing.assert_allclose(found["b"], [(r + 1) / n] * 2, rtol=1e-6)
            dense = wrap(lambda: gradients(sparse_as_dense=True))()
            assert isinstance(dense["t"], tf.Tensor)
            np.testing.assert_allclose(dense["t"], wanted, rtol=1e-6)
            total = sum(range(1, n + 1))
            (_, first), (_, second) = wrap(pairs)()
            assert first.numpy().tolist() == [3.0 * total] * 2 and float(second) == 3.0 * total
            some = wrap(lambda: gradients(process_set=pair, sparse_as_dense=True))()["t"].numpy()
            assert (some == (wanted * n / 2 * (np.arange(n) < 2)[:, None] if r < 2 else np.eye(n)[:, r:] @ [[3.0, 6.0]])).all(), some
    finally:
        hvd.remove_process_set(pair)
    layer = keras.layers.Dense(2)
    layer.build((None, 2))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer(tf.ones((1, 2)))) * (r + 1.0)
    tape = hvd.PartialDistributedGradientTape(tape, local_layers=layer, scale_local_gradients=False)
    assert (tape.gradient(value, layer.trainable_weights)[0].numpy() == r + 1).all()


def case_error_feedback(s) -> None:
    """Of 300 elements 3 travel in each step; what does not is not lost, though each step has a tape of its own. Nor after the variable."""
    for wrap in (tf.function, lambda f: f):
        before = len(dropped._held)
        v, other = tf.Variable(tf.zeros(300)), tf.Variable(tf.zeros((20, 5)))

        @wrap
        def step(v=v, other=other):
            with tf.GradientTape() as tape:
                value = (tf.reduce_sum(v) + tf.reduce_sum(other)) * (1.0 + s.rank)
            gradients = hvd.DistributedGradientTape(tape, compression=hvd.Compression.topk).gradient(value, [v, other])
            v.assign_sub(gradients[0])
            other.assign_sub(gradients[1])

        for _ in range(150):
            step()
        assert len(dropped._held) == before + 2
        moved = -np.concatenate([v, tf.reshape(other, [-1])])
        owed = np.concatenate([dropped.dropped_of([x])[0].residual.reshape(-1) for x in (v, other)])
        total = hvd.allreduce(owed) + moved
        np.testing.assert_allclose(total, 150 * 2.0, rtol=1e-5)
        assert moved.min() >= 40 * 2.0
    del v, other, step
    gc.collect()
    assert len(dropped._held) == before


def case_fit(s) -> None:
    """Keras's own loop, plain and compiled by XLA, by the front of tf.keras and by TensorFlow's."""
    x, y = data()
    mine = s.part(x, y, batch=BATCH)
    reference = network(1)
    reference.compile(keras.optimizers.Adam(1e-2), loss())
    reference.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    for wrap, settings in ((hvd_keras.DistributedOptimizer, {"jit_compile": True}), (hvd.DistributedOptimizer, {})):
        model = network(1 + s.rank)
        model.compile(wrap(keras.optimizers.Adam(1e-2)), loss(), **settings)
        callbacks = [hvd_keras.callbacks.BroadcastGlobalVariablesCallback(0)]
        model.fit(*mine, batch_size=BATCH // s.size, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        s.same(model, reference)


def case_older_optimizers(s) -> None:
    """Those of tf.compat.v1.train: eagerly, and in a session that a hook begins."""
    v1, n, r = tf.compat.v1, s.size, s.rank
    x = tf.Variable([1.0, 2.0])
    optimizer = hvd.DistributedOptimizer(v1.train.MomentumOptimizer(0.1, 0.9))
    optimizer.minimize(lambda: tf.reduce_sum(x * (r + 1.0)), var_list=[x])
    np.testing.assert_allclose(x, np.array([1.0, 2.0]) - 0.1 * (n + 1) / 2, rtol=1e-6)
    with tf.Graph().as_default():
        tf.compat.v1.set_random_seed(r)
        w, b = v1.get_variable("w", [2, 2]), v1.get_variable("b", [2])
        value = tf.reduce_sum((tf.ones((1, 2)) @ w + b) * (r + 1.0))
        train = hvd.DistributedOptimizer(v1.train.GradientDescentOptimizer(0.1)).minimize(value)
        mean = hvd.allreduce(b, name="mean")
        with v1.train.MonitoredSession(hooks=[hvd.BroadcastGlobalVariablesHook(0)]) as session:
            for _ in range(3):
                session.run(train)
            found = np.concatenate([session.run(w), session.run(b)[None], session.run(mean)[None]])
    everyone = s.world.allgather(found[None])
    assert (everyone == everyone[0]).all()
    np.testing.assert_allclose(found[2], found[3], rtol=1e-6)
    try:
        hvd.broadcast_global_variables(0)
    except RuntimeError as error:
        assert "broadcast_variables" in str(error)
    else:
        raise AssertionError


def case_operations_without_order(s) -> None:
    """In a graph of TensorFlow 1: of one tensor under names of their own; more of them wait at a time than there are cores."""
    v1, n = tf.compat.v1, s.size
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None])
        several = [hvd.allreduce(x, op=hvd.Sum), hvd.allreduce(x, op=hvd.Sum), hvd.allgather(x)]
        several += [hvd.allreduce(x * i, op=hvd.Sum, name=f"part_{i}") for i in range(9)]
        several = several[s.rank :] + several[: s.rank]
        variables = [v1.get_variable(name, [2], initializer=v1.ones_initializer()) for name in ("v", "w")]
        trained = [hvd.DistributedOptimizer(v1.train.GradientDescentOptimizer(0.1)).minimize(tf.reduce_sum(v)) for v in variables]
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            for _ in range(5):
                found = session.run(several, {x: [1.0, 2.0]})
                session.run(trained)
    first = (len(found) - s.rank) % len(found)
    found = found[first:] + found[:first]
    assert lists(found[:3]) == [[n, 2 * n], [n, 2 * n], [1.0, 2.0] * n] and lists(found[3:]) == [[i * n, 2 * i * n] for i in range(9)], (
        found
    )


def case_sync_batch_norm(s) -> None:
    """As one process on the joined batch, of unequal parts: outputs, gradients, moving averages."""
    x = np.random.default_rng(0).normal(size=(12, 4, FEATURES)).astype("float32")
    begins = [0, 2, 5, 12]
    mine = tf.constant(x[begins[s.rank] : begins[s.rank + 1]])

    def outcome(layer, x):
        if not layer.built:
            layer.build(x.shape)
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = layer(x, training=True)
            value = tf.reduce_sum(out**3)
        return out, *tape.gradient(value, [x, layer.gamma]), layer.moving_variance.value

    for wrap in (lambda f: f, tf.function):
        wanted = outcome(keras.layers.BatchNormalization(), tf.constant(x))
        layer = hvd.SyncBatchNormalization()
        layer.build(mine.shape)
        found = wrap(lambda x, layer=layer: outcome(layer, x))(mine)
        rows = slice(begins[s.rank], begins[s.rank + 1])
        np.testing.assert_allclose(found[0], wanted[0][rows], atol=1e-5)
        np.testing.assert_allclose(found[1], wanted[1][rows], atol=1e-3)
        np.testing.assert_allclose(hvd.allreduce(found[2], op=hvd.Sum), wanted[2], rtol=1e-4)
        np.testing.assert_allclose(found[3], wanted[3], rtol=1e-5)


def case_trouble(s) -> None:
    """Ranks that want different things: the same error on each of them, at once and in a graph, and later operations go on."""
    told = []
    for wrap, kind in ((lambda f: f, HorovodInternalError), (tf.function, tf.errors.UnknownError)):
        for call in (
            lambda: hvd.allreduce(tf.ones(2 + s.rank // 2), name="unlike"),
            lambda: hvd.broadcast(tf.ones(2), s.rank, name="roots"),
            lambda: hvd.allreduce(tf.ones(2), name="ops", op=hvd.Sum if s.rank else hvd.Max),
        ):
            try:
                wrap(call)()
            except kind as error:
                text = str(error)
                told.append(text[text.index("ranks disagree") :].splitlines()[0])
            else:
                raise AssertionError
    everyone = hvd.allgather_object(told)
    assert all(one == everyone[0] for one in everyone), everyone
    assert float(hvd.allreduce(1.0, op=hvd.Sum)) == s.size
    for wrong in (
        lambda: hvd.allreduce(tf.ones(2), op=17),
        lambda: hvd.alltoall(tf.ones(3), splits=[0.5] * 3),
        lambda: hvd.broadcast(1.0, 7),
    ):
        try:
            wrong()
        except ValueError:
            continue
        raise AssertionError


def case_objects_and_variables(s) -> None:
    v, w = tf.Variable(float(s.rank)), tf.Variable(tf.fill((2, 0), s.rank))
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    assert hvd.broadcast_([v, *layer.weights], 1)[0].numpy() == 1.0 and v.numpy() == 1.0
    hvd.broadcast_variables([w, *layer.weights], 2, inplace=True)
    kernels = hvd.allgather(layer.kernel[None]).numpy()
    assert (kernels == kernels[0]).all()
    assert hvd.broadcast_object({"rank": s.rank}, 1, name="told") == {"rank": 1} == hvd.broadcast_object_fn(1)({"rank": s.rank})
    assert hvd.allgather_object(s.rank) == list(range(s.size))


def case_elastic(s) -> None:
    """Variables that go back to the last commit, after an error in a graph."""
    v = tf.Variable(float(1 + s.rank))
    state = hvd.elastic.TensorFlowState([v], step=0)
    broken = tf.function(lambda: hvd.allreduce(tf.ones(1 + s.rank), name="broken"))

    @hvd.elastic.run
    def train(state):
        if state.step:
            assert v.numpy() == 5.0
            return state.step
        state.step = 1
        v.assign(5.0)
        state.commit()
        v.assign(7.0)
        return broken()

    assert train(state) == 1
    model = network(1 + s.rank)
    keeper = hvd.elastic.TensorFlowKerasState(model, keras.optimizers.Adam(), epoch=s.rank)
    keeper.sync()
    assert keeper.epoch == 0
    s.same(model, network(1), 0)
    assert copy.copy(keeper) is not keeper


def case_imports(s) -> None:
    """What `hpcdl run --as-horovod` answers."""
    answer_horovod()
    import horovod.keras as theirs
    import horovod.keras.callbacks
    import horovod.tensorflow.keras
    from horovod.tensorflow.compression import Compression
    from horovod.tensorflow.functions import broadcast_variables
    from horovod.tensorflow.keras.callbacks import MetricAverageCallback
    from horovod.tensorflow.mpi_ops import ProcessSet, allgather, size_op

    assert horovod.tensorflow is hvd and horovod.tensorflow.keras is hvd_keras and theirs.rank() == s.rank
    assert MetricAverageCallback is horovod.keras.callbacks.MetricAverageCallback and Compression is hvd.Compression
    assert (broadcast_variables, ProcessSet, allgather, size_op) == (hvd.broadcast_variables, hvd.ProcessSet, hvd.allgather, hvd.size_op)


def case_join(s) -> None:
    """Ranks with different numbers of batches; last, since a rank that has joined does nothing more."""
    v = tf.Variable([1.0, 1.0])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(v) * (s.rank + 1.0)
        return hvd.DistributedGradientTape(tape).gradient(value, [v])[0]

    seen = [float(step()[0]) for _ in range(1 + s.rank)]
    last = int(hvd.join())
    sums = [sum(range(i + 1, s.size + 1)) / s.size for i in range(1 + s.rank)]
    np.testing.assert_allclose(seen, sums, rtol=1e-6)
    assert last == s.size - 1


if __name__ == "__main__":
    run(globals())

"""Shared data of every kind: the law with uneven parts."""

from __future__ import annotations

import math
from itertools import pairwise

import keras
import numpy as np
import side
from side import compiled, data, network

import hpcdl.keras as hk
from hpcdl.errors import InvalidArgument
from hpcdl.shards import Shards


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


def case_class_weight(s):
    """Given to shard; what Keras would ignore is refused."""
    x, y = data(89)
    weights = {0: 5.0, 2: 0.5}
    ours = compiled(network(1 + s.rank), True)
    shared = hk.shard(x, y, batch_size=29, shuffle=False, class_weight=weights)
    ours.fit(shared, epochs=2, verbose=0, callbacks=[hk.BroadcastVariables()])
    reference = compiled(network(1), False)
    reference.fit(x, y, class_weight=weights, batch_size=29, epochs=2, shuffle=False, verbose=0)
    s.same(ours, reference)
    fresh = compiled(network(1), True)
    refused = [
        (lambda: fresh.fit(hk.shard(x, y), class_weight=weights), "fit() does not apply class_weight to shared data"),
        (lambda: fresh.fit(hk.shard(x), y), "fit() does not apply y to shared data"),
        (lambda: ours.evaluate(shared, sample_weight=y), "evaluate() does not apply sample_weight to shared data"),
        (lambda: fresh.evaluate(hk.shard(x, y)), "hpcdl.keras.attach(model) first"),
        (lambda: fresh.predict(hk.shard(x)), "hpcdl.keras.attach(model) first"),
        (lambda: hk.shard(x, y, x[:, 0], class_weight=weights), "no sample_weight beside it"),
        (lambda: hk.shard(x, y, class_weight={s.rank: 2.0}), "differ in the digest of class_weight"),
    ]
    for call, told in refused:
        try:
            call()
        except InvalidArgument as error:
            assert told in str(error), error
        else:
            raise AssertionError(f"no error: {told}")


def case_resumed(s):
    """With an initial_epoch: in the order in which it would have gone on, also in the middle of the data."""
    x, y = data(89)
    for steps, until, parts in ((None, 3, (1,)), (4, 5, (2, 3))):
        one = fitted(s, hk.shard(x, y, batch_size=10), until, steps_per_epoch=steps)
        model = compiled(network(1 + s.rank), True)
        for begin, end in pairwise((0, *parts, until)):
            model.fit(
                hk.shard(x, y, batch_size=10),
                initial_epoch=begin,
                epochs=end,
                steps_per_epoch=steps,
                verbose=0,
                callbacks=[hk.BroadcastVariables()],
            )
        s.same(model, one)


def case_lists(s):
    """Of outputs; and some steps of the data alone."""
    x, y = data(89)

    def made(distributed):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((side.FEATURES,))
        model = keras.Model(inputs, [keras.layers.Dense(side.CLASSES)(inputs), keras.layers.Dense(1)(inputs)])
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(hk.DistributedOptimizer(optimizer) if distributed else optimizer, [side.loss(), "mse"])
        return model

    one, ours = made(False), made(True)
    wanted = [y, x[:, :1]]
    one.fit(x, wanted, batch_size=29, shuffle=False, verbose=0)
    ours.fit(hk.shard(x, wanted, batch_size=29, shuffle=False), verbose=0, callbacks=[hk.BroadcastVariables()])
    s.same(ours, one)
    for a, b in zip(one.predict(x[:20], verbose=0), ours.predict(hk.shard(x, wanted, batch_size=10), steps=2, verbose=0), strict=True):
        assert np.allclose(a, b, atol=1e-4)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size):
        super().__init__()
        self.x, self.y, self.size, self.told = x, y, size, []

    def on_epoch_begin(self):
        self.told.append("begin")

    def on_epoch_end(self):
        self.told.append("end")

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
        assert batches.told[-2:] == ["begin", "end"] and batches.told.count("begin") >= epochs, batches.told


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


def case_odd_data(s):
    import tensorflow as tf

    samples = tf.data.Dataset.from_tensor_slices(data(89))
    sparse = tf.sparse.from_dense(data(89)[0])
    words = tf.data.Dataset.from_tensor_slices((np.array([["a"], ["b"]] * 20), np.zeros(40))).batch(20)
    assert hk.shard(words).num_batches == 2
    if side.BACKEND == "tensorflow":
        (inputs, *_), *_ = hk.shard(words).get_tf_dataset()
        assert inputs.numpy().ravel().tolist() == np.array_split([b"a", b"b"] * 10, s.size)[s.rank].tolist(), inputs
    cures = [(sparse, "make sparse and ragged ones dense first"), (samples.batch(9).take(0), "empty"), ([], "no array")]
    cures += [(samples, "dataset.batch(n)"), (samples.batch(30).repeat(), "leave repeat() out"), (iter([data(2)]), "once per epoch")]
    for bad, cure in cures:
        try:
            hk.shard(bad)
        except InvalidArgument as error:
            assert cure in str(error), error
        else:
            raise AssertionError(f"no error: {cure}")


class Squares(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(keras.ops.square(x)))
        return x


class Seen(keras.Model):
    def train_step(self, *arguments):
        assert not isinstance(arguments[-1], tuple), "inputs alone come as they are, as from Keras's own data"
        return super().train_step(*arguments)


def case_inputs_alone(s):
    """Without labels there is no sample_weight, so a stand-in cannot be told from data."""
    x, _ = data(89)

    def model(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((side.FEATURES,))
        return Seen(inputs, Squares()(keras.layers.Dense(4)(inputs)))

    alone, ours = model(1), model(1 + s.rank)
    alone.compile(keras.optimizers.SGD(0.1))
    alone.fit(x, batch_size=30, epochs=2, shuffle=False, verbose=0)
    ours.compile(hk.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    ours.fit(hk.shard(x, batch_size=30, shuffle=False), epochs=2, verbose=0, callbacks=[hk.BroadcastVariables()])
    s.same(ours, alone)
    assert ours.predict(hk.shard(x, batch_size=2), verbose=0).shape == (89, 4)
    few = hk.shard(x[: s.size - 1])
    if s.rank == s.size - 1:
        try:
            list(few.get_numpy_iterator())
        except InvalidArgument as error:
            assert f"rank {s.rank} of {s.size} has no sample in batch 0" in str(error), error
        else:
            raise AssertionError("no error")


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
    """Ranks with one, two and three batches of different sizes."""
    x, y = data(90)
    sizes = [[7], [5, 9], [4, 8, 3]]
    cuts, at = [], 0
    for rank in range(s.size):
        cuts.append([])
        for size in sizes[rank]:
            cuts[-1].append((x[at : at + size], y[at : at + size]))
            at += size
    joined = []
    for step in range(s.size):
        parts = [cut[step] for cut in cuts if step < len(cut)]
        joined.append(tuple(np.concatenate(part) for part in zip(*parts, strict=True)))
    s.same(fitted(s, hk.shard(cuts[s.rank], own=True), 2), alone([*joined, *joined]))
    try:
        hk.shard([] if s.rank == 1 else cuts[0], own=True)
    except InvalidArgument as error:
        assert f"rank 1 of {s.size} has no batch" in str(error), error
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


if __name__ == "__main__":
    side.run(globals())

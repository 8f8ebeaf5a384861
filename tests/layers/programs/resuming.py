"""A `fit` that is ended in the midst of an epoch and goes on, in a model of its own: bitwise as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import side
from side import data, loss, network

import hpcdl
import hpcdl.keras as hk
from hpcdl.errors import DataError, InvalidArgument, Mismatch
from hpcdl.keras.replicas import unnumbered


@contextmanager
def folder_of_all(s):
    """One for all ranks, as BackupAndRestore needs it."""
    with tempfile.TemporaryDirectory() as mine:
        name = s.world.broadcast(np.frombuffer(mine.ljust(200).encode(), np.uint8).copy())
        yield Path(name.tobytes().decode().strip())
        s.world.barrier()


class Note(keras.callbacks.Callback):
    """What is told after each batch and each epoch; `at` the time, (epoch, batch), it does `act`."""

    def __init__(self, at=None, act=None):
        super().__init__()
        self.at, self.act, self.batches, self.epochs = at, act, {}, {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.batches[self.epoch, batch] = dict(logs)
        if self.at == (self.epoch, batch):
            self.act()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs[epoch] = dict(logs)


def bits(model):
    """Of all that is trained or counted, states of random generators included."""
    variables = enumerate([*model.variables, *model.optimizer.variables])
    return {f"{i} {unnumbered(v.path)}": keras.ops.convert_to_numpy(v.value).tobytes() for i, v in variables}


def same(whole, parts):
    """A model and its Note, and those of the same training in parts."""
    (model, told), (resumed, rest) = whole, parts[-1]
    batches = {key: logs for _, note in parts for key, logs in note.batches.items()}
    assert list(batches) == list(told.batches) and batches == told.batches, (batches, told.batches)
    here, there = bits(model), bits(resumed)
    different = [name for name, value in here.items() if there[name] != value]
    assert not different, different
    assert {epoch: told.epochs[epoch] for epoch in rest.epochs} == rest.epochs, (told.epochs, rest.epochs)
    assert 0 < len(rest.batches) < len(told.batches)


def case_signal(s):
    """To one rank, with all that has a state: moving averages, dropout, metrics, a compressor's memory, a rate that rises."""
    x, y = data(89)

    def fitted(seed, *callbacks, at=None):
        keras.utils.set_random_seed(seed + s.rank)
        layers = [keras.layers.Dense(16), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3), keras.layers.Dense(side.CLASSES)]
        model = keras.Sequential([keras.Input((side.FEATURES,)), *layers])
        optimizer = hk.DistributedOptimizer(keras.optimizers.Adam(1e-2), codec="powersgd:rank=1")
        model.compile(optimizer, loss(), metrics=["accuracy"])
        note = Note(at, lambda: s.rank == 1 and os.kill(os.getpid(), signal.SIGUSR1))
        mine = [*callbacks, hk.BroadcastVariables(), hk.AverageMetrics(), hk.LearningRateWarmup(epochs=2), note]
        code = 0
        try:
            model.fit(hk.shard(x, y, batch_size=20), epochs=3, validation_data=(x, y), verbose=0, callbacks=mine)
        except SystemExit as end:
            code = end.code
        return model, note, code

    with folder_of_all(s) as folder:
        whole = fitted(1)[:2]
        first, second = fitted(1, hk.BackupAndRestore(folder), at=(1, 0)), fitted(50, hk.BackupAndRestore(folder))
        assert (first[2], second[2]) == (hpcdl.REQUEUE, 0)
        assert not folder.exists(), "the files stay when all is done"
    assert list(first[1].batches)[-1] in ((1, 1), (1, 2)), first[1].batches
    same(whole, [first[:2], second[:2]])


def fitted(s, world, folder, end=None, save_freq=3, size=10, epochs=6, compiling=(), plain=False, **more):
    """A training without a codec, of a model that its first batch builds; `end` is the batch, (epoch, batch), with which it raises."""
    x, y = data(89)
    model = network(7 + world.rank, known=False)
    optimizer = hk.DistributedOptimizer(keras.optimizers.Adam(1e-2), world=world)
    model.compile(optimizer, loss(), metrics=["accuracy"], **dict(compiling))
    note = Note(end, lambda: 1 / 0)
    recursive = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9)
    backup = [hk.BackupAndRestore(folder, save_freq, delete_checkpoint=False, world=world)] if folder else []
    callbacks = [*backup, *([] if plain and folder else [hk.BroadcastVariables(world)]), hk.AverageMetrics(world), recursive, note]
    if plain:
        mine, more = s.part(x[:60], y[:60], batch=5 * s.size), {"batch_size": 5, "shuffle": False, **more}
    else:
        mine = [hk.shard(x, y, batch_size=size, world=world)]
    try:
        model.fit(*mine, epochs=epochs, verbose=0, callbacks=callbacks, **more)
    except ZeroDivisionError:
        pass
    return model, note


def case_saved_between(s):
    """Ended without a warning it goes on from the last save, within a pass over the data that several epochs share; or does not fit."""
    with folder_of_all(s) as folder:
        way = {"steps_per_epoch": 4}
        whole = fitted(s, s.world, None, **way)
        first = fitted(s, s.world, folder, (4, 2), **way)
        for more, said in (
            ({"size": 30}, "within an epoch of 4, and here epochs have 3"),
            ({"initial_epoch": 5}, "fit begins with epoch 5"),
        ):
            try:
                fitted(s, s.world, folder, **way, **more)
            except DataError as error:
                assert said in str(error), error
            else:
                raise AssertionError(f"no error: {said}")
        if s.rank == 0:
            shutil.copytree(folder, f"{folder}-copy")
        same(whole, [first, fitted(s, s.world, folder, **way)])
        again, note = fitted(s, s.world, folder, **way)
        assert bits(again) == bits(whole[0]) and not note.batches, "there is nothing left to do"
        if s.rank < s.size - 1:
            on_fewer_ranks(s, s.world.group(range(s.size - 1)), f"{folder}-copy", whole, way)


def case_other_ways(s):
    """Other data than a shard, of which what is done is read and dropped, without BroadcastVariables; several steps at once."""
    ways = [({"plain": True, "epochs": 2, "save_freq": 1}, (1, 2))]
    if side.BACKEND == "tensorflow":
        ways.append(({"compiling": {"steps_per_execution": 2}, "epochs": 3}, (1, 3)))
    for way, end in ways:
        with folder_of_all(s) as folder:
            same(fitted(s, s.world, None, **way), [fitted(s, s.world, folder, end, **way), fitted(s, s.world, folder, **way)])


def on_fewer_ranks(s, world, folder, whole, more):
    """From the same batch, with the metrics that all had together; no bitwise promise."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model, note = fitted(s, world, folder, **more)
    told = [str(warning.message) for warning in told]
    assert sum(f"'random' was saved by each of {s.size} ranks" in text for text in told) == (world.rank == 0), told
    for a, b in zip(model.get_weights(), whole[0].get_weights(), strict=True):
        assert np.allclose(a, b, atol=1e-4)
    assert 0 < len(note.batches) < len(whole[1].batches)
    for epoch, logs in note.epochs.items():
        assert all(np.isclose(value, whole[1].epochs[epoch][name], atol=1e-3) for name, value in logs.items()), (epoch, logs)


def case_arguments(s):
    """What would save nothing, or the wrong thing."""
    backup = hk.BackupAndRestore("run", delete_checkpoint=False)
    wrong = [
        (lambda: hk.BackupAndRestore("run", save_freq=0), "a number of batches"),
        (lambda: hk.OnRank0(backup), "itself on every rank"),
        (lambda: hk.OnRank0(keras.callbacks.BackupAndRestore("run")), "hpcdl.keras.BackupAndRestore"),
        (lambda: hk.OnRank0(keras.callbacks.ReduceLROnPlateau()), "all ranks must do alike; cure:"),
        (backup.on_train_begin, "works within fit()"),
        (lambda: fitted(s, s.world, "run", save_freq=2 + s.rank), f"the arguments of BackupAndRestore differ between the {s.size} ranks"),
    ]
    for call, said in wrong:
        try:
            call()
        except (InvalidArgument, Mismatch) as error:
            assert said in str(error), error
        else:
            raise AssertionError(f"no error: {said}")


if __name__ == "__main__":
    side.run(globals())

"""The reducer and the NumPy door's trainer on device arrays: bit for bit what they give on the host, and nobody waits for the device."""

import numpy as np
import pytest

from device.places import gradient, own_stream, same, up
from hpcdl.errors import NonFinite
from hpcdl.numpy import LOSSES, MLP, OPTIMIZERS, Shards, Trainer, evaluate
from hpcdl.reduction.reducer import Reducer

SHAPES = [(7, 20), (20,), (20, 3), (3,), ()]
SIZES = (6, 16, 9, 3)


def steps(world, library, like, **how):
    """Three steps of a reducer; its views afterwards, on the host only at the very end."""
    reducer = Reducer(world, SHAPES, like=like, bucket_bytes=1024, **how)
    for step in range(3):
        reducer.begin(world.rank + 1)
        for i in reversed(range(len(SHAPES))):
            if (i, step) != (1, 2):  # one gradient is missing in the last step
                reducer.views[i][...] = library.asarray(gradient(world.rank + 7 * step, reducer.views[i].size).reshape(SHAPES[i]))
                reducer.ready(i)
        reducer.wait()
    return reducer.views


COMPRESSORS = ["topk:ratio=0.1", "randomk:ratio=0.1", "sign", "powersgd:rank=1"]
HOW = [{}, {"codec": "fp16"}, {"codec": "int8", "error_feedback": True}, {"codec": "bf16", "dtype": "float64"}]
HOW += [
    {"codec": "int8-stochastic"},
    *({"codec": codec, "dtype": dtype} for codec in COMPRESSORS for dtype in ("float32", "float64", "float16")),
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_reducer(ranks, cupy, how):
    def body(world):
        expected = steps(world, np, None, collective="ring", **how)
        with own_stream(cupy, world):
            views = steps(world, cupy, cupy.empty(1), collective="ring", **how)
            assert not cupy.machine.waits, "a step has waited for the device"
            world.barrier()
            for view, wanted in zip(views, expected, strict=True):
                same(view.get(), wanted)

    ranks(3, body)


@pytest.mark.ways("threads")
def test_check_finite_names_the_parameter(ranks, cupy):
    def body(world):
        with own_stream(cupy, world):
            reducer = Reducer(world, SHAPES, like=cupy.empty(1), check_finite=True)
            for i, view in enumerate(reducer.views):
                view[...] = np.inf if (world.rank, i) == (1, 2) else 1
                reducer.ready(i)
            with pytest.raises(NonFinite, match="rank 1 of 2 in the gradient of 'parameter 2'"):
                reducer.wait()

    ranks(2, body)


def samples(loss, dtype="float32"):
    random = np.random.default_rng(4)
    x = random.normal(size=(25, SIZES[0])).astype(dtype)
    if loss == "cross_entropy":
        return x, (x[:, :3] @ random.normal(size=(3, 3))).argmax(axis=1)
    return (x, (x[:, :3] > 0).astype(dtype)) if loss == "binary_cross_entropy" else (x, np.tanh(x[:, :3]))


def trained(world, library, loss, optimizer, **reduction):
    x, y = map(library.asarray, samples(loss))
    trainer = Trainer(world, MLP(SIZES, seed=world.rank, like=x), loss, optimizer, **reduction)
    losses = trainer.fit(x, y, batch_size=7, epochs=2, seed=2)  # 7 samples over 3 ranks, at last 4
    score = evaluate(trainer.model, trainer.loss, x, y, world)
    return trainer, losses, score


@pytest.mark.ways("threads")
@pytest.mark.parametrize(("loss", "optimizer"), [*zip(LOSSES.names() * 2, OPTIMIZERS.names(), strict=False)])
@pytest.mark.parametrize("reduction", [{}, {"codec": "fp16", "error_feedback": True, "bucket_bytes": 512}], ids=str)
def test_training(ranks, cupy, loss, optimizer, reduction):
    def body(world):
        expected, losses, score = trained(world, np, loss, optimizer, collective="ring", **reduction)
        with own_stream(cupy, world):
            got = trained(world, cupy, loss, optimizer, collective="ring", **reduction)
            assert got[1:] == (losses, score)
            for mine, wanted in zip(got[0].model.parameters, expected.model.parameters, strict=True):
                assert isinstance(mine, cupy.ndarray)
                same(mine.get(), wanted)

    ranks(3, body)


@pytest.mark.parametrize("codec", ["none", "fp16", "int8", "bf16", "int8-stochastic", *COMPRESSORS])
@pytest.mark.parametrize("batch_size", [2, 9])  # with 2, one rank of three has no samples
def test_a_step_never_waits_for_the_device(ranks, cupy, codec, batch_size):
    def body(world):
        x, y = samples("cross_entropy")
        with own_stream(cupy, world):
            x, y = up(cupy, x), up(cupy, y)
            trainer = Trainer(world, MLP(SIZES, like=x), codec=codec)
            for shard in Shards(len(x), batch_size, world.rank, world.size).epoch(0):
                index = cupy.asarray(shard)
                trainer.step(x[index], y[index])
            assert not cupy.machine.waits
            world.barrier()

    ranks(3, body)

"""All-reduce of device arrays: bit for bit what NumPy arrays give, with every collective, codec, dtype and op."""

import ml_dtypes
import numpy as np
import pytest

from device.places import gradient, own_stream, same, up
from hpcdl.codecs import codecs
from hpcdl.collectives.collective import collectives

SIZES = [0, 1, 1000]


def twins(world):
    """Two groups in which operations have the same numbers: stochastic rounding goes by them."""
    return [world.group(range(world.size)) for _ in range(2)]


def on_both(cupy, world, x, **how):
    """All-reduce of `x` in host memory and in device memory."""
    first, second = twins(world)
    expected = first.allreduce(x.copy(), **how)
    with own_stream(cupy, world):
        mine = up(cupy, x)
        assert second.allreduce(mine, **how) is mine
        same(mine.get(), expected)


@pytest.mark.parametrize("codec", codecs.names())
@pytest.mark.parametrize("collective", ["auto", *collectives.names()])
def test_every_collective_and_codec(ranks, cupy, collective, codec):
    def body(world):
        if collective == "native" and codec != "none":
            return  # with MPI it adds in another order than the schedule that stands in for it on a device
        if collective in ("auto", "shared-memory", "two-level", "nccl"):
            return  # on the host through shared memory, which adds in another order and encodes nothing; NCCL: test_nccl
        for n in SIZES:
            on_both(cupy, world, gradient(world.rank, n), op="mean", codec=codec, collective=collective)

    ranks(3, body)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("codec", codecs.names())
def test_floating_dtypes(ranks, cupy, dtype, codec):
    ranks(2, lambda world: on_both(cupy, world, gradient(world.rank, 700, dtype), op="mean", codec=codec, collective="ring"))


@pytest.mark.parametrize("op", ["sum", "max", "bit_xor", "logical_and"])
def test_integers(ranks, cupy, op):
    def body(world):
        for dtype in ("int8", "int64"):
            on_both(cupy, world, np.arange(300, dtype="int64").astype(dtype) + world.rank, op=op, collective="ring")
        if op != "sum":
            on_both(cupy, world, np.arange(300) % (world.rank + 2) == 0, op=op, collective="ring")

    ranks(3, body)


@pytest.mark.ways("threads")
@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("collective", ["ring", "tree"])
def test_error_feedback(ranks, cupy, codec, collective):
    def body(world):
        on_host = np.zeros(500, "f4")
        with own_stream(cupy, world):
            on_device = cupy.zeros(500, "f4")
            for step in range(3):
                x = gradient(world.rank + 10 * step, 500)
                mine = up(cupy, x)
                world.allreduce(mine, "mean", codec, collective, error_feedback=on_device, weight=world.rank + 1)
                world.allreduce(x, "mean", codec, collective, error_feedback=on_host, weight=world.rank + 1)
                same(mine.get(), x)
                same(on_device.get(), on_host)

    ranks(3, body)


@pytest.mark.parametrize("weights", [(1, 2, 3), (0, 5, 0), (0, 0, 0)])
def test_weights(ranks, cupy, weights):
    def body(world):
        x = gradient(world.rank, 300)
        if not weights[world.rank]:
            x[:] = np.nan
        on_both(cupy, world, x, op="mean", weight=weights[world.rank], codec="fp16", collective="ring")

    ranks(3, body)


@pytest.mark.parametrize("codec", codecs.names())
@pytest.mark.parametrize("collective", ["ring", "halving-doubling", "tree", "direct"])
def test_host_and_device_arrays_in_one_call(ranks, cupy, codec, collective):
    def body(world):
        x = gradient(world.rank, 1000)
        first, second = twins(world)
        expected = first.allreduce(x.copy(), "mean", codec, collective)
        if world.rank == 0:
            same(second.allreduce(x, "mean", codec, collective), expected)
            return
        with own_stream(cupy, world):
            same(second.allreduce(up(cupy, x), "mean", codec, collective).get(), expected)

    ranks(3, body)


def test_out_and_larger_than_a_piece(ranks, cupy):
    def body(world):
        x = gradient(world.rank, 400_000)
        expected = world.allreduce(x.copy(), codec="fp16", collective="ring")
        with own_stream(cupy, world):
            mine = up(cupy, x)
            out = cupy.empty(x.size, "f4")
            assert world.allreduce(mine, codec="fp16", collective="ring", out=out) is out
            same(out.get(), expected)
            same(mine.get(), x)

    ranks(2, body)


def test_nan_and_infinity_stay(ranks, cupy):
    def body(world):
        for codec in codecs.names():
            x = gradient(world.rank, 520)
            x[[3, 200, 519]] = [np.nan, np.inf, -np.inf]
            on_both(cupy, world, x, codec=codec, collective="ring")

    ranks(2, body)

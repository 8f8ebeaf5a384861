"""What moves device arrays without reducing them, and reduce-scatter."""

import ml_dtypes
import numpy as np
import pytest

from device.places import gradient, own_stream, same, up

DTYPES = [np.float32, ml_dtypes.bfloat16, np.int16, np.bool_, np.complex64]


def on_both(cupy, world, call, x):
    expected = call(world, x.copy())
    with own_stream(cupy, world):
        got = call(world, up(cupy, x))
        assert isinstance(got, cupy.ndarray)
        same(got.get().view("u1") if x.dtype.kind == "c" else got.get(), expected.view("u1") if x.dtype.kind == "c" else expected)


def rows(world, n, dtype):
    return (gradient(world.rank, 5 * n).reshape(n, 5) * 3).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast(ranks, cupy, dtype):
    def body(world):
        for n in (0, 1, 7, 30_000):
            on_both(cupy, world, lambda world, x: world.broadcast(x, root=1), rows(world, n, dtype))

    ranks(3, body)


@pytest.mark.parametrize("dtype", DTYPES)
def test_allgather(ranks, cupy, dtype):
    def body(world):
        for n in (0, 1, 7):
            on_both(cupy, world, lambda world, x: world.allgather(x), rows(world, n + world.rank, dtype))

    ranks(3, body)


@pytest.mark.parametrize("dtype", DTYPES)
def test_alltoall(ranks, cupy, dtype):
    def body(world):
        for n in (0, 2, 11):
            on_both(cupy, world, lambda world, x: world.alltoall(x), rows(world, n, dtype))

    ranks(3, body)


@pytest.mark.parametrize("codec", ["none", "fp16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_reduce_scatter(ranks, cupy, dtype, codec):
    def body(world):
        for n in (0, 2, 110):
            on_both(cupy, world, lambda world, x: world.reduce_scatter(x, "mean", codec), rows(world, n, dtype))

    ranks(3, body)

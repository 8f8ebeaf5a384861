"""All-reduce of device arrays on 2 and 4 ranks: what NumPy arrays give, bit for bit, as one kernel or message after another comes."""

import ml_dtypes
import numpy as np
import pytest
from device.places import gradient, same

from hpcdl.arrays.gpu import Gpu
from hpcdl.codecs import codecs


def on_both(cupy, world, x, **how):
    """Groups in which operations have the same numbers: stochastic rounding goes by them."""
    first, second = (world.group(range(world.size)) for _ in range(2))
    expected = first.allreduce(x.copy(), **how)
    with Gpu(world.local_rank):
        mine = cupy.asarray(x)
        assert second.allreduce(mine, **how) is mine
        same(mine.get(), expected)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("codec", codecs.names())
def test_codecs(ranks, cupy, size, codec):
    def body(world):
        for collective in ("ring", "halving-doubling", "tree"):
            for n in (0, 1, 1000, 300_001):
                on_both(cupy, world, gradient(world.rank, n), op="mean", codec=codec, collective=collective)

    ranks(size, body)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32, np.uint8])
def test_dtypes(ranks, cupy, dtype):
    def body(world):
        x = (gradient(world.rank, 5000) * 3).astype(dtype) if np.dtype(dtype).kind not in "iu" else np.arange(5000).astype(dtype)
        on_both(cupy, world, x, op="sum", collective="ring")

    ranks(2, body)


@pytest.mark.parametrize("size", [2, 4])
def test_auto_is_the_sum_to_rounding(ranks, cupy, size):
    """Whatever the library chooses on this machine: NCCL, a GPU-aware MPI, or through the host."""

    def body(world):
        with Gpu(world.local_rank):
            for n in (1, 1000, 3_000_000):
                x = cupy.asarray(gradient(world.rank, n))
                world.allreduce(x, "mean")
                wanted = np.mean([gradient(rank, n).astype("f8") for rank in range(world.size)], axis=0)
                assert np.allclose(x.get(), wanted, rtol=1e-5, atol=1e-4)
            world.barrier()

    ranks(size, body)


def test_the_other_collectives(ranks, cupy):
    def body(world):
        for call in (
            lambda world, x: world.broadcast(x, 1),
            lambda world, x: world.allgather(x),
            lambda world, x: world.alltoall(x),
            lambda world, x: world.reduce_scatter(x, "mean", "fp16"),
        ):
            x = gradient(world.rank, 40_000).reshape(8_000, 5)
            expected = call(world, x.copy())
            with Gpu(world.local_rank):
                same(call(world, cupy.asarray(x)).get(), expected)

    ranks(2, body)

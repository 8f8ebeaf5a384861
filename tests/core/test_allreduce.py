"""Laws 1, 5 and 6 for every collective, codec, op and dtype: results are right and bitwise equal on all ranks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from hpcdl.codecs import by_name as codec_named
from hpcdl.codecs import codecs
from hpcdl.collectives.collective import collectives
from hpcdl.collectives.ops import by_name as op_named
from hpcdl.collectives.ops import ops
from hpcdl.errors import InvalidArgument, UnknownName

SIZES = [0, 1, 2, 127, 128, 129, 1000, 300_001]
FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
COLLECTIVES = ["auto", *collectives]


def data(rank: int, n: int) -> np.ndarray:
    return np.random.default_rng((rank, n)).standard_normal(n).astype(np.float32)


def assert_replicas_equal(world, x: np.ndarray) -> None:
    mine = np.ascontiguousarray(x).reshape(-1).view(np.uint8)[None]
    everyone = world.allgather(mine)
    assert (everyone == everyone[0]).all(), f"replicas differ on rank {world.rank}"


@pytest.mark.parametrize("codec", list(codecs))
@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_mean_of_every_size(ranks, n, collective, codec) -> None:
    def body(world) -> None:
        for size in SIZES:
            x = data(world.rank, size)
            exact = np.mean([data(rank, size).astype(np.float64) for rank in range(n)], axis=0)
            largest = max((np.abs(data(rank, size)).max(initial=0) for rank in range(n)), default=0)
            assert world.allreduce(x, op="mean", codec=codec, collective=collective) is x
            assert_replicas_equal(world, x)
            # Each value is encoded at most once on every rank it passes, and sums grow to n times the largest.
            bound = 1e-6 * n + codec_named(codec).error * (n + 1) / 2 * 2
            assert np.abs(x - exact).max(initial=0) <= bound * largest + 1e-12, (size, np.abs(x - exact).max())

    ranks(n, body)


@pytest.mark.parametrize("op", list(ops))
@pytest.mark.parametrize("n", [2, 3])
def test_every_op_and_dtype(ranks, n, op) -> None:
    def body(world) -> None:
        rng = np.random.default_rng(world.rank)
        for dtype in map(np.dtype, [*FLOATS, *INTEGERS, np.bool_]):
            try:
                op_named(op).check(dtype)
            except InvalidArgument:
                with pytest.raises(InvalidArgument, match=f"op '{op}' is not defined for"):
                    world.allreduce(np.ones(3, dtype), op=op)
                continue
            x = rng.integers(0, 2 if dtype.kind == "b" else 5, 77).astype(dtype)
            everyone = world.allgather(x[None].copy())
            for collective in COLLECTIVES:
                got = world.allreduce(x, op=op, collective=collective, out=np.empty_like(x))
                wanted = everyone[0].astype(np.float64) if op == "mean" else everyone[0].copy()
                for other in everyone[1:]:
                    wanted = getattr(np, op_named(op).ufunc)(wanted, other)
                if op == "mean":
                    wanted = wanted / n
                assert got.dtype == dtype
                assert np.allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=1e-2 if dtype.itemsize == 2 else 1e-6), (
                    dtype,
                    collective,
                )

    ranks(n, body)


def test_neutral_elements() -> None:
    for op in map(op_named, ops):
        for dtype in map(np.dtype, [*FLOATS, *INTEGERS, np.bool_]):
            try:
                op.check(dtype)
            except InvalidArgument:
                continue
            x = np.array([0, 1, 1, 0], dtype)
            wanted = x.astype(bool).astype(dtype) if op.name.startswith("logical") else x
            assert (getattr(np, op.ufunc)(x, op.neutral(dtype)).astype(dtype) == wanted).all(), (op.name, dtype)


def test_short_floats_are_summed_in_float32(ranks) -> None:
    def body(world) -> None:
        for collective in COLLECTIVES:
            big = world.allreduce(np.full(10, 60000, np.float16), op="mean", collective=collective)
            assert (big == 60000).all()
            small = world.allreduce(np.full(10, 1 if world.rank == 0 else 2**-9, ml_dtypes.bfloat16), collective=collective)
            assert (small.astype(np.float32) == np.float32(1 + 3 * 2**-9).astype(ml_dtypes.bfloat16)).all()

    ranks(4, body)


def test_float64_is_summed_in_float64(ranks) -> None:
    def body(world) -> None:
        for collective in COLLECTIVES:
            x = world.allreduce(np.full(1000, 1 + 2.0**-40 * world.rank), collective=collective)
            assert (x == 3 + 3 * 2.0**-40).all()

    ranks(3, body)


def test_weighted_mean(ranks) -> None:
    def body(world) -> None:
        for codec, close in (("none", 1e-6), ("fp16", 1e-3)):
            x = np.full(1000, np.nan if world.rank == 0 else world.rank, np.float32)  # weight 0 takes even a NaN out
            world.allreduce(x, op="mean", weight=world.rank, codec=codec)
            assert np.allclose(x, (1 + 4 + 9) / 6, rtol=close)
        nobody = world.allreduce(np.ones(5, np.float32), op="mean", weight=0)
        assert (nobody == 0).all()

    ranks(4, body)


def test_out_leaves_the_input_alone(ranks) -> None:
    def body(world) -> None:
        x, out = np.ones((3, 4), np.float32), np.empty((3, 4), np.float32)
        frozen = np.ones((3, 4), np.float32)
        frozen.flags.writeable = False
        assert world.allreduce(x, out=out) is out
        assert (x == 1).all() and (out == 3).all()
        assert (world.allreduce(frozen, out=np.empty_like(x)) == 3).all()
        assert (world.allreduce(x[:, ::2], out=np.empty((3, 2), np.float32)) == 3).all()

    ranks(3, body)


def test_the_result_may_be_changed_without_touching_a_neighbour(ranks) -> None:
    def body(world) -> None:
        for collective in COLLECTIVES:
            x = world.allreduce(np.ones(5000, np.float32), collective=collective)
            x *= world.rank
            world.barrier()
            assert (x == 4 * world.rank).all()

    ranks(4, body)


@pytest.mark.ways("mpi")  # 32-bit counts are MPI's
@pytest.mark.parametrize("collective", ["ring", "native"])
def test_more_than_two_gigabytes(ranks, collective) -> None:
    def body(world) -> None:
        x = np.zeros(2**31 + 4097, np.uint8)
        x[[0, 2**31 - 1, 2**31, -1]] = world.rank + 1
        world.allreduce(x, collective=collective)
        assert (x[[0, 2**31 - 1, 2**31, -1]] == 3).all()
        assert np.count_nonzero(x) == 4

    ranks(2, body)


def test_nans_are_alike_and_memory_may_be_odd(ranks) -> None:
    def body(world) -> None:
        for collective in COLLECTIVES:
            x = np.array([0x7FC00000 + world.rank, 0xFFC00000 + 7 * world.rank, 0x3F800000], np.uint32).view(np.float32)
            world.allreduce(x, collective=collective)
            assert_replicas_equal(world, x)
            odd = np.frombuffer(bytearray(33), np.uint8)[1:].view(np.float32)
            odd[:] = 1
            assert (world.allreduce(odd, collective=collective) == 4).all()

    ranks(4, body)


def test_bad_input(ranks) -> None:
    def body(world) -> None:
        good = np.ones((4, 4), np.float32)
        frozen = good.copy()
        frozen.flags.writeable = False
        place = f"rank {world.rank} of 2"
        cases = [
            (lambda: world.allreduce(good[:, ::2]), InvalidArgument, f"{place}: .*not contiguous"),
            (lambda: world.allreduce(good.T), InvalidArgument, "not contiguous"),
            (lambda: world.allreduce(frozen), InvalidArgument, "read-only"),
            (lambda: world.allreduce([1.0, 2.0]), InvalidArgument, "expected a NumPy or CuPy array, got list"),
            (lambda: world.allreduce(np.ones(3, np.complex64)), InvalidArgument, "complex64 is not supported; valid: float16"),
            (lambda: world.allreduce(np.array([object()])), InvalidArgument, "not supported"),
            (lambda: world.allreduce(np.ones(3, ">i4")), InvalidArgument, "byte order"),
            (lambda: world.allreduce(np.ma.masked_equal([1, 2], 2)), InvalidArgument, "MaskedArray is more than its numbers"),
            (lambda: world.broadcast(np.ma.ones(3)), InvalidArgument, "MaskedArray is more than its numbers"),
            (lambda: world.allreduce(np.ones(3, np.int32), op="mean"), InvalidArgument, "op 'mean' is not defined for int32"),
            (lambda: world.allreduce(np.ones(3, np.int32), codec="fp16"), InvalidArgument, "needs a floating dtype, got int32"),
            (lambda: world.allreduce(good, op="average"), UnknownName, "unknown op 'average'; known: bit_and"),
            (lambda: world.allreduce(good, codec="fp8"), UnknownName, "unknown codec 'fp8'; known: bf16, fp16, int8, int8-stoch"),
            (lambda: world.allreduce(good, collective="star"), UnknownName, "unknown collective 'star'; known: auto, direct"),
            (lambda: world.allreduce(good, weight=2.0), InvalidArgument, "weight is for op='mean'"),
            (lambda: world.allreduce(good, op="mean", weight=-1.0), InvalidArgument, "weight must be finite and not negative"),
            (lambda: world.allreduce(good, op="mean", weight=np.nan), InvalidArgument, "weight must be finite"),
            (lambda: world.allreduce(good, out=np.ones(3, np.float32)), InvalidArgument, "out must be an array of shape"),
            (lambda: world.allreduce(good, codec="int8", error_feedback=np.zeros(3)), InvalidArgument, "error_feedback must be"),
            (lambda: world.allreduce(good, error_feedback=np.zeros_like(good)), InvalidArgument, "with a lossy codec"),
            (lambda: world.broadcast(good, root=2), InvalidArgument, "root must be 0 to 1"),
            (lambda: world.broadcast(np.array([object()])), InvalidArgument, "Python objects"),
            (lambda: world.group([0, 5]), InvalidArgument, "within 0 to 1"),
            (lambda: world.group([0, 0]), InvalidArgument, "must be different"),
            (lambda: world.group([1 - world.rank]), InvalidArgument, "only members"),
        ]
        for call, kind, message in cases:
            with pytest.raises(kind, match=message):
                call()
        assert (world.allreduce(good) == 2).all()  # nothing was sent by the bad calls: the world goes on

    ranks(2, body)


@pytest.mark.parametrize("collective", [*collectives, "auto"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_sums_of_short_integers_wrap_as_in_numpy(ranks, dtype, collective) -> None:
    """Open MPI's own sum stops at the largest value."""

    def body(world) -> None:
        x = np.arange(1009).astype(dtype) * (world.rank + 1)
        expected = (np.arange(1009) * sum(range(1, world.size + 1))).astype(dtype)
        assert (world.allreduce(x.astype(dtype), collective=collective) == expected).all()

    ranks(4, body)

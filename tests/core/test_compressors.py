"""What every compressor promises: the laws, over the registry; and what each is for."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import hpcdl
from hpcdl.arrays import HOST
from hpcdl.codecs import BLOCK, FOR_BUCKETS, codecs
from hpcdl.collectives.collective import collectives
from hpcdl.collectives.pool import Pool
from hpcdl.errors import InvalidArgument, Mismatch, UnknownName
from hpcdl.reduction import factors
from hpcdl.reduction.compressors import by_name, compressors, names

SHAPES = [(40, 30), (7,), (64, 8, 2), (), (0, 4), (300,)]
SPECS = {"topk": "topk:ratio=0.1", "randomk": "randomk:ratio=0.1", "powersgd": "powersgd:rank=2", "sign": "sign"}
DTYPES = ["float32", "float64", "float16", ml_dtypes.bfloat16]


@pytest.fixture(params=list(compressors))
def codec(request) -> str:
    """Each of the registry, with parameters that make much of a small model."""
    return SPECS.get(request.param, request.param)


def gradients(rank: int, step: int) -> list[np.ndarray]:
    rng = np.random.default_rng((rank, step))
    return [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]


def run(world, reducer, step: int, weight: float = 1) -> None:
    reducer.begin(weight)
    for i, gradient in enumerate(gradients(world.rank, step)):
        reducer.views[i][...] = gradient if weight else np.nan
        reducer.ready(i)
    reducer.wait()


def flat(arrays) -> np.ndarray:
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def summed(world, arrays) -> np.ndarray:
    return world.allgather(flat(arrays)[None]).sum(axis=0)


def test_the_names_that_a_codec_points_to_are_those() -> None:
    assert set(FOR_BUCKETS) == set(compressors) and not set(compressors) & set(codecs)
    assert by_name("topk").error_feedback and not by_name("int8").error_feedback
    with pytest.raises(UnknownName, match=f"unknown codec 'top'; known: {', '.join(names())}"):
        by_name("top:k=3")
    for bad in ("topk:ratio=0", "topk:ratio=2", "randomk:ratio=-1", "powersgd:rank=0", "powersgd:rank=1.5", "sign:x=1"):
        with pytest.raises(InvalidArgument, match=bad.partition(":")[0]):
            by_name(bad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bucket_bytes", [1, 1 << 22])
@pytest.mark.parametrize("n", [2, 3])
def test_replicas_stay_equal(ranks, codec, n, bucket_bytes, dtype) -> None:
    """Law 1, with weights of which one is 0 in each step; that rank's views hold NaN."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec, dtype=dtype, bucket_bytes=bucket_bytes)
        for step in range(4):
            run(world, reducer, step, weight=(world.rank + step) % n)
            raw = np.concatenate([view.reshape(-1).view("u1") for view in reducer.views])
            assert (world.allgather(raw[None]) == raw).all()
            assert np.isfinite(flat(reducer.views)).all() and np.isfinite(flat(reducer.residuals)).all()

    ranks(n, body)


@pytest.mark.parametrize("op", ["sum", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_lost(ranks, codec, dtype, op) -> None:
    """Law 4: over all ranks, inputs + old residuals == applied sum + new residuals."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec, dtype=dtype, op=op, bucket_bytes=2048)
        for step in range(5):
            before = summed(world, [g.astype(dtype) for g in gradients(world.rank, step)]) + summed(world, reducer.residuals)
            run(world, reducer, step)
            applied = flat(reducer.views) * (world.size if op == "mean" else 1)
            after = applied + summed(world, reducer.residuals)
            assert np.abs(before - after).max() <= 8 * world.size * np.spacing(np.float32(np.abs(before).max() + 4))
        assert np.abs(flat(reducer.residuals)).max() > 0

    ranks(3, body)


def test_with_weights_nothing_is_lost(ranks, codec) -> None:
    """The same for sum(w g); a step in which nobody has data applies nothing and keeps what is held."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec)
        for step, weights in enumerate([(3, 5, 0), (0, 0, 7), (0, 0, 0), (1, 1, 1)]):
            mine = weights[world.rank]
            before = summed(world, [mine * g for g in gradients(world.rank, step)]) + summed(world, reducer.residuals)
            run(world, reducer, step, weight=mine)
            after = flat(reducer.views) * sum(weights) + summed(world, reducer.residuals)
            assert np.allclose(before, after, atol=1e-4)
            assert any(weights) or not flat(reducer.views).any()

    ranks(3, body)


def test_the_same_gradient_again_and_again_arrives(ranks, codec) -> None:
    """The mean of what was applied comes near the gradient, as 1/steps."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec)
        total, off = 0, []
        wanted = sum(flat(gradients(rank, 0)) for rank in range(2)) / 2
        for step in range(1, 121):
            run(world, reducer, 0)
            total = total + flat(reducer.views)
            if step in (30, 120):
                off.append(np.linalg.norm(total / step - wanted) / np.linalg.norm(wanted))
        assert off[1] < 0.5 and off[1] < 0.6 * off[0]

    ranks(2, body)


def test_without_error_feedback(ranks, codec) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec, error_feedback=False)
        assert reducer.residuals is None and reducer.memory.error_feedback == 0
        for step in range(2):
            run(world, reducer, step)
            mine = flat(reducer.views)
            assert (world.allgather(mine[None]) == mine).all()
        assert np.abs(flat(reducer.views)).max() > 0

    ranks(2, body)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_seen_and_does_not_come_back(ranks, codec, bad) -> None:
    """On all ranks, in the very parameter; one step later it is gone."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec, collective="ring")
        run(world, reducer, 0)
        for i in (0, 1, 5):
            for k, view in enumerate(reducer.views):
                view[...] = 1
                if (world.rank, k) == (1, i):
                    view.flat[view.size // 2] = bad
                reducer.ready(k)
            reducer.wait()
            assert not np.isfinite(reducer.views[i]).all()
            assert np.isfinite(flat(reducer.residuals)).all()
            run(world, reducer, i)
            assert np.isfinite(flat(reducer.views)).all()

    ranks(2, body)


def test_alone_nothing_is_sent_and_nothing_lost(codec) -> None:
    world = hpcdl.World.solo()
    reducer = hpcdl.Reducer(world, SHAPES, codec=codec)
    run(world, reducer, 0)
    assert np.array_equal(flat(reducer.views), flat([g.astype("f4") for g in gradients(0, 0)]).astype("f4"))
    assert not flat(reducer.residuals).any()


def test_residuals_belong_to_parameters(ranks, codec) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec, bucket_bytes=1)
        run(world, reducer, 0)
        other = hpcdl.Reducer(world, SHAPES, codec=codec)
        for mine, theirs in zip(other.residuals, reducer.residuals, strict=True):
            assert mine.shape == theirs.shape
            mine[...] = theirs
        held = summed(world, other.residuals)
        for i, view in enumerate(other.views):
            view[...] = 0
            other.ready(i)
        other.wait()
        assert np.allclose(2 * flat(other.views) + summed(world, other.residuals), held, atol=1e-5)

    ranks(2, body)


def wire_bytes(codec: str, p: int, elements: list[int]) -> float:
    """What each rank sends for these parameters, by the formula in the docstring."""
    if codec == "topk:ratio=0.1":
        return (p - 1) * sum(8 * math.ceil(0.1 * n) for n in elements)
    if codec == "sign":
        return (p - 1) * sum(4 * -(-n // BLOCK) + 4 * -(-n // 32) for n in elements)
    if codec == "randomk:ratio=0.1":
        return 2 * (p - 1) / p * 4 * sum(math.ceil(n / 10) for n in elements)
    matrices = 2 * ((80 + 64) + (64 + 32))  # rank 2
    return 2 * (p - 1) / p * 4 * (matrices + 40)


@pytest.mark.parametrize("n", [2, 4])
def test_bytes_are_those_of_the_docstring(ranks, codec, n) -> None:
    """Counted by the transport; a ring cuts at whole blocks, so ranks send up to a block more or less each round: the sum is exact."""
    shapes = [(80, 64), (64, 32), (40,)]

    def body(world) -> int:
        reducer = hpcdl.Reducer(world, shapes, codec=codec, op="sum", collective="ring")
        sent = world.bytes_sent
        for i, view in enumerate(reducer.views):
            view[...] = world.rank + 1
            reducer.ready(i)
        reducer.wait()
        return world.bytes_sent - sent

    found = ranks(n, body)
    headers = 16 * n  # each rank's first message to its neighbour
    assert sum(found) - headers == n * wire_bytes(codec, n, [80 * 64, 64 * 32, 40])


@pytest.mark.parametrize("collective", ["auto", *collectives])
@pytest.mark.parametrize("name", ["randomk", "powersgd"])
def test_sums_by_any_collective(ranks, name, collective) -> None:
    def body(world) -> None:
        reducers = [hpcdl.Reducer(world, SHAPES, codec=SPECS[name], collective=c, bucket_bytes=1500) for c in (collective, "ring")]
        for step in range(3):
            for reducer in reducers:
                run(world, reducer, step)
            assert np.allclose(*(flat(reducer.views) for reducer in reducers), atol=1e-3)

    ranks(3, body)


def test_only_for_sums_of_floats(codec) -> None:
    for how in ({"op": "max"}, {"op": "sum", "dtype": "int32"}):
        with pytest.raises(InvalidArgument, match="reduces floats by op sum or mean"):
            hpcdl.Reducer(hpcdl.World.solo(), [(3,)], codec=codec, **how)


def test_ranks_that_disagree(ranks) -> None:
    def body(world) -> None:
        with pytest.raises(Mismatch, match=r"topk:ratio=0\.1"):
            hpcdl.Reducer(world, [(3,)], codec="topk:ratio=0.1" if world.rank else "topk:ratio=0.2")

    ranks(2, body)


def test_topk_sends_the_largest_of_each_parameter(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(100,), (10, 10)], codec="topk:ratio=0.02")
        reducer.views[0][...] = np.arange(100) * 1e-6
        reducer.views[1][...] = 1
        reducer.ready(0), reducer.ready(1)
        reducer.wait()
        assert np.flatnonzero(reducer.views[0]).tolist() == [98, 99]
        assert np.flatnonzero(reducer.views[1]).tolist() == [0, 1]  # ties go to the lowest place

    ranks(2, body)


def test_randomk_without_feedback_is_right_on_average(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(1000,)], codec="randomk:ratio=0.1", error_feedback=False)
        total = np.zeros(1000)
        for _ in range(400):
            reducer.views[0][...] = 1
            reducer.ready(0)
            reducer.wait()
            assert np.count_nonzero(reducer.views[0]) == 100
            total += reducer.views[0]
        assert abs(total.mean() / 400 - 1) < 0.02 and np.abs(total / 400 - 1).max() < 6 * 3 / 20

    ranks(2, body)


def test_powersgd_finds_a_matrix_of_its_rank(ranks) -> None:
    """Exactly so from the second step on, at any magnitude."""

    def body(world) -> None:
        rng = np.random.default_rng(3)
        left, right = rng.normal(size=(50, 2)), rng.normal(size=(2, 60))
        for size in (1e-15, 1, 1e15):
            reducer = hpcdl.Reducer(world, [(50, 60)], codec="powersgd:rank=2")
            for _ in range(2):
                reducer.views[0][...] = size * (left * (world.rank + 1)) @ right
                reducer.ready(0)
                reducer.wait()
            assert np.allclose(reducer.views[0], size * 1.5 * left @ right, rtol=1e-3, atol=1e-4 * size)

    ranks(2, body)


def test_powersgd_comes_back_from_zero(ranks) -> None:
    """A step without any gradient does not leave it with a factor of zeros for ever."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(50, 60)], codec="powersgd:rank=2")
        for value in (1, 0, 0, 1):
            reducer.views[0][...] = value
            reducer.ready(0)
            reducer.wait()
        assert np.allclose(reducer.views[0], 1, atol=1e-3)
        assert reducer.memory.kept == 4 * 2 * 60

    ranks(2, body)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factors(dtype) -> None:
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(4, 101)) * np.array([[1e-25], [1], [1e25], [0]])).astype(dtype)
    rows[1] = rows[0] * 3e25  # dependent on the one before, to rounding
    with np.errstate(all="ignore"):  # as the progress loop does
        factors.orthonormalise(HOST, rows)
    assert np.allclose(rows @ rows.T, np.diag([1, 0, 1, 0]), atol=1e-6)
    left, right, out = rng.normal(size=(3, 50)).astype(dtype), rng.normal(size=(3, 1000)).astype(dtype), np.empty((50, 1000), dtype)
    factors.multiply(HOST, Pool(HOST), left, right, out)
    assert np.allclose(out, left.T @ right, atol=1e-5)
    factors.subtract(HOST, Pool(HOST), left, right, out)
    assert np.abs(out).max() < 1e-5
    bad = np.array([[1, np.nan, 2], [np.inf, 1, 1]], dtype)
    with np.errstate(all="ignore"):
        factors.orthonormalise(HOST, bad)
    assert np.isnan(bad).any(axis=1).all()

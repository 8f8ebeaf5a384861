"""The reducer: buckets in one order on all ranks, whatever the order of the gradients."""

from __future__ import annotations

import numpy as np
import pytest

import hpcdl
from hpcdl.codecs import BLOCK, by_name
from hpcdl.errors import InvalidArgument, Mismatch, NonFinite, UnknownName
from hpcdl.reduction.bucket import layout

SHAPES = [(3, 4), (7,), (100, 30), (), (5, 5)]


def gradients(rank: int, step: int) -> list[np.ndarray]:
    rng = np.random.default_rng((rank, step))
    return [np.asarray(rng.standard_normal(shape) * 10.0 ** (8 * i - 20), np.float32) for i, shape in enumerate(SHAPES)]


def mean_of(size: int, step: int, weights: list[float]) -> list[np.ndarray]:
    everyone = [gradients(rank, step) for rank in range(size)]
    return [sum(w * g[i].astype(np.float64) for w, g in zip(weights, everyone, strict=True)) / sum(weights) for i in range(len(SHAPES))]


def step_of(reducer, rank: int, step: int) -> None:
    for view, gradient in zip(reducer.views, gradients(rank, step), strict=True):
        view[...] = gradient
    for i in np.random.default_rng((rank, step, 7)).permutation(len(SHAPES)):
        reducer.ready(int(i))


@pytest.mark.parametrize("bucket_bytes", [1, 4096, 1 << 22])
@pytest.mark.parametrize(("codec", "close"), [("none", 1e-6), ("fp16", 2e-3), ("bf16", 2e-2), ("int8", 3e-2)])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_mean_in_any_order(ranks, n, codec, close, bucket_bytes) -> None:
    """Magnitudes of 1e-20 and 1e12 in one bucket: no block of a codec spans two parameters."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, SHAPES, codec=codec, bucket_bytes=bucket_bytes)
        for step in range(3):
            step_of(reducer, world.rank, step)
            reducer.wait()
            for view, wanted in zip(reducer.views, mean_of(n, step, [1] * n), strict=True):
                assert np.abs(view - wanted).max() <= close * 5 * np.abs(wanted).max()
            flat = np.concatenate([view.ravel() for view in reducer.views])
            assert (world.allgather(flat[None]).view(np.uint32) == flat.view(np.uint32)).all()

    ranks(n, body)


def test_weights_late_and_announced(ranks) -> None:
    def body(world) -> None:
        late, early = hpcdl.Reducer(world, SHAPES, bucket_bytes=100), hpcdl.Reducer(world, SHAPES, bucket_bytes=100)
        for step in range(4):
            weights = [float((rank + step) % 3) for rank in range(3)]
            mine = weights[world.rank]
            step_of(late, world.rank, step)
            late.wait(weight=mine)
            early.begin(mine)
            step_of(early, world.rank, step)
            early.wait()
            for a, b, wanted in zip(late.views, early.views, mean_of(3, step, weights), strict=True):
                assert np.allclose(a, wanted, rtol=1e-5) and (a == b).all()

    ranks(3, body)


def test_a_rank_without_data(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(4,), (2,)])
        if world.rank == 1:
            reducer.views[0][...] = np.nan  # left over from something else
            reducer.wait(weight=0)
        else:
            for i, view in enumerate(reducer.views):
                view[...] = world.rank + 1
                reducer.ready(i)
            reducer.wait(weight=5)
        assert all((view == 2).all() for view in reducer.views)
        reducer.wait(weight=0)
        assert all((view == 0).all() for view in reducer.views)

    ranks(3, body)


def test_missing_gradients_count_as_zero(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(4,), (2,), (3,)], bucket_bytes=1)
        for _ in range(2):
            for view in reducer.views:
                view[...] = 6
            reducer.ready(world.rank)
            reducer.flush()
            reducer.flush()
            reducer.wait()
            assert [float(view[0]) for view in reducer.views] == [2, 2, 2]

    ranks(3, body)


def test_buckets_start_while_backward_goes_on(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(1000,)] * 4, bucket_bytes=4000, collective="ring")
        for step in range(3):
            if step == 2:
                reducer.begin(1)
            before = world.bytes_sent
            reducer.views[3][...] = 1
            reducer.ready(3)
            if step:  # in the first step the weight may still come with wait()
                started = world.bytes_sent > before
                assert started, step
            for i in range(3):
                reducer.views[i][...] = 1
                reducer.ready(i)
            reducer.wait()
            assert all((view == 1).all() for view in reducer.views)

    ranks(2, body)


def test_two_reducers_started_in_opposite_orders(ranks) -> None:
    def body(world) -> None:
        pair = [hpcdl.Reducer(world, [(50_000,)], codec="fp16"), hpcdl.Reducer(world, [(50_000,)])]
        for _ in range(5):
            mine = pair if world.rank % 2 else pair[::-1]
            for reducer in mine:
                reducer.begin(1)
                reducer.views[0][...] = world.rank
                reducer.ready(0)
            for reducer in mine[::-1] if world.rank == 2 else mine:
                reducer.wait()
            assert all(np.allclose(reducer.views[0], 1.5) for reducer in pair)

    ranks(4, body)


def test_dtypes_and_sum(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(3,), (4,), (5,)], dtype=["float64", "float16", "float32"])
        for i, view in enumerate(reducer.views):
            view[...] = 60000 / 2**i
            reducer.ready(i)
        reducer.wait()
        assert [view.dtype for view in reducer.views] == [np.float64, np.float16, np.float32]
        assert [float(view[0]) for view in reducer.views] == [60000, 30000, 15000]
        total = hpcdl.Reducer(world, [(3,)], op="sum", dtype="int32")
        total.views[0][...] = 2
        total.ready(0)
        total.wait()
        assert (total.views[0] == 6).all()

    ranks(3, body)


def test_check_finite_names_rank_and_parameter(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(4,), (2,)], check_finite=True, names=["weight", "bias"], bucket_bytes=1)
        for view in reducer.views:
            view[...] = 1
        if world.rank == 2:
            reducer.views[1][0] = np.inf
        reducer.ready(0), reducer.ready(1)
        with pytest.raises(NonFinite, match="NaN or infinity on rank 2 of 3 in the gradient of 'bias'"):
            reducer.wait()
        for i, view in enumerate(reducer.views):
            view[...] = 1
            reducer.ready(i)
        reducer.wait()
        assert (reducer.views[1] == 1).all()

    ranks(3, body)


def test_layouts_that_differ(ranks) -> None:
    def body(world) -> str:
        with pytest.raises(Mismatch) as caught:
            hpcdl.Reducer(world, [(4,), (3 if world.rank == 1 else 2,)], names=["weight", "bias"])
        text = str(caught.value)
        assert "rank 1" in text and "bias: float32[3]" in text and "bias: float32[2]" in text
        return text

    texts = ranks(3, body)
    assert texts is None or len(set(texts)) == 1


def test_misuse(ranks) -> None:
    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(4,), (2,)], names=["weight", "bias"])
        with pytest.raises(InvalidArgument, match="parameters 0 to 1"):
            reducer.ready(2)
        with pytest.raises(InvalidArgument, match="before any gradient was ready"):
            reducer.wait()
        reducer.ready(0)
        with pytest.raises(InvalidArgument, match="weight became ready twice"):
            reducer.ready(0)
        with pytest.raises(InvalidArgument, match="finite and not negative"):
            reducer.wait(weight=-1)
        reducer.ready(1)
        reducer.wait()
        reducer.ready(0), reducer.ready(1)
        with pytest.raises(InvalidArgument, match="call begin"):
            reducer.wait(weight=3)
        reducer.wait()
        for shape in (3, "abc", (2, -1)):
            with pytest.raises(InvalidArgument, match=r"shapes\[1\] must"):
                hpcdl.Reducer(world, [(1,), shape])
        reducer.ready(0)
        with pytest.raises(InvalidArgument, match=r"begin.. comes before the first ready"):
            reducer.begin(2)
        reducer.wait()
        with pytest.raises(UnknownName):
            hpcdl.Reducer(world, [(1,)], codec="fp8")
        with pytest.raises(InvalidArgument, match="as many dtypes and names"):
            hpcdl.Reducer(world, [(1,)], names=[])
        with pytest.raises(InvalidArgument, match="op 'mean' is not defined for int32"):
            hpcdl.Reducer(world, [(1,)], dtype="int32")
        empty = hpcdl.Reducer(world, [])
        empty.wait()

    ranks(2, body)


def test_layout_starts_parameters_on_whole_blocks_last_first() -> None:
    f4 = np.dtype("f4")
    plans = layout([(10,), (300,), (5,)], [f4] * 3, bucket_bytes=2048)
    assert [plan.offsets for plan in plans] == [{2: 0, 1: BLOCK}, {0: 0}]
    assert [plan.size for plan in plans] == [4 * BLOCK, BLOCK]
    mixed = layout([(10,), (10,)], [f4, np.dtype("f8")], bucket_bytes=1 << 20)
    assert [plan.offsets for plan in mixed] == [{1: 0}, {0: 0}]


@pytest.mark.parametrize("codec", ["none", "int8"])
def test_no_more_buckets_in_flight_than_asked_for(ranks, codec) -> None:
    """What rank 0 sends, and the memory that it takes, before rank 1 has come: that of the first buckets only."""

    def body(world) -> list[tuple[int, int]]:
        found = []
        for in_flight in (1, 2, 4):
            reducer = hpcdl.Reducer(world, [(4096,)] * 6, codec=codec, bucket_bytes=1, collective="ring", in_flight=in_flight)
            reducer.begin(1)
            for _ in range(2):
                before = world.bytes_sent
                if world.rank == 1:
                    world.barrier()
                for i, view in enumerate(reducer.views):
                    view[...] = world.rank + i
                    reducer.ready(i)
                if world.rank == 0:
                    found.append((world.bytes_sent - before, reducer.memory.wires))
                    world.barrier()
                reducer.wait()
                assert all(np.allclose(view, i + 0.5, rtol=0.01) for i, view in enumerate(reducer.views))
        return found

    for one, two, four in [[found[i] for i in (0, 2, 4)] for found in ranks(2, body)[:1]]:
        assert two[0] > 1.9 * one[0] and four[0] > 1.9 * two[0]
        assert codec == "none" or one[1] < two[1] < four[1]  # exact wires are the array itself


def test_memory_is_what_was_measured(ranks) -> None:
    def body(world) -> None:
        shapes = [(300, 7), (128,), (50,)]
        reducer = hpcdl.Reducer(world, shapes, codec="int8", error_feedback=True, collective="ring")
        padded = sum(-(-int(np.prod(shape)) // BLOCK) * BLOCK for shape in shapes)
        assert reducer.memory.gradients == reducer.memory.error_feedback == 4 * padded
        assert hpcdl.Reducer(world, shapes).memory.error_feedback == 0
        reducer.wait(weight=0)
        assert reducer.memory.wires >= by_name("int8").nbytes(padded // 2)
        lines = str(reducer.memory).splitlines()
        assert [line.split("  ")[0] for line in lines] == ["gradients", "error feedback", "kept", "wires", "window"]

    ranks(2, body)


def test_in_flight_must_be_at_least_one() -> None:
    with pytest.raises(InvalidArgument, match="in_flight must be more than 0, got 0"):
        hpcdl.Reducer(hpcdl.World.solo(), [(1,)], in_flight=0)

"""broadcast, allgather, reduce_scatter, alltoall, barrier; split and group."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hpcdl.errors import InvalidArgument

N = pytest.mark.parametrize("n", [1, 2, 3, 4])


@N
def test_broadcast(ranks, n) -> None:
    def body(world) -> None:
        for root in range(n):
            for size in (0, 1, 5, 100_001):
                for dtype in (np.float32, np.int8, np.complex128, np.bool_):
                    x = np.full(size, world.rank + 1).astype(dtype)
                    assert world.broadcast(x, root) is x
                    assert (x == np.full(size, root + 1).astype(dtype)).all()

    ranks(n, body)


@N
def test_allgather_of_unequal_parts(ranks, n) -> None:
    def body(world) -> None:
        for rows_of in (lambda rank: rank, lambda rank: 3, lambda rank: 1000 * rank + 1, lambda rank: 0):
            lengths = [rows_of(rank) for rank in range(n)]
            everyone = world.allgather(np.full((lengths[world.rank], 2, 3), world.rank, np.int16))
            assert everyone.shape == (sum(lengths), 2, 3)
            assert (everyone[:, 0, 0] == np.repeat(np.arange(n), lengths)).all()
        assert (world.allgather(np.array(world.rank)) == np.arange(n)).all()

    ranks(n, body)


@N
def test_reduce_scatter_is_a_part_of_allreduce(ranks, n) -> None:
    def body(world) -> None:
        for length in (0, 1, n, 10, 1001):
            x = np.random.default_rng(world.rank).integers(0, 9, (length, 3)).astype(np.float32)
            before = x.copy()
            for op in ("sum", "mean", "max"):
                mine = world.reduce_scatter(x, op=op)
                whole = world.allreduce(x, op=op, out=np.empty_like(x))
                assert np.allclose(mine, np.array_split(whole, n)[world.rank])
                assert mine.shape == np.array_split(whole, n)[world.rank].shape
            assert (x == before).all()
        lossy = world.reduce_scatter(np.ones(500, np.float16), codec="fp16")
        assert lossy.dtype == np.float16 and (lossy == n).all()
        with pytest.raises(InvalidArgument, match="at least one dimension"):
            world.reduce_scatter(np.array(1.0))

    ranks(n, body)


@N
def test_alltoall(ranks, n) -> None:
    def body(world) -> None:
        for length in (0, n, 2 * n, 10, 300_001):
            x = np.arange(length, dtype=np.int64) * 10 + world.rank
            got = world.alltoall(x)
            part = np.array_split(np.arange(length, dtype=np.int64) * 10, n)[world.rank]
            assert (got == np.concatenate([part + rank for rank in range(n)])).all()

    ranks(n, body)


@N
def test_barrier_waits_for_the_last(ranks, n) -> None:
    def body(world) -> tuple[float, float]:
        world.barrier()
        if world.rank == n - 1:
            time.sleep(0.3)
        came = time.monotonic()
        world.barrier()
        return came, time.monotonic()

    times = ranks(n, body)
    if times is not None:
        assert min(left for _, left in times) >= max(came for came, _ in times) - 1e-3


def test_split_and_group(ranks) -> None:
    def body(world) -> None:
        odd = world.split(world.rank % 2, key=-world.rank)
        assert odd is not None and odd.size == 2
        assert [odd.ranks[r] - world.ranks[0] for r in range(2)] == ([2, 0] if world.rank % 2 == 0 else [3, 1])
        assert odd.allreduce(np.array([world.rank]))[0] == (2 if world.rank % 2 == 0 else 4)
        some = world.split(None if world.rank == 1 else 7)
        assert (some is None) == (world.rank == 1)
        if some is not None:
            assert some.allreduce(np.array([1]))[0] == 3
        if world.rank in (3, 1):
            assert world.group([3, 1]).rank == [3, 1].index(world.rank)

    ranks(4, body)


def test_overlapping_groups_started_in_opposite_orders(ranks) -> None:
    def body(world) -> None:
        left = world.group([0, 1, 2]) if world.rank < 3 else None
        right = world.group([1, 2, 3]) if world.rank > 0 else None
        groups = [g for g in ((left, right) if world.rank % 2 else (right, left)) if g is not None]
        for _ in range(20):
            handles = [group.allreduce_async(np.ones(50_000, np.float32)) for group in groups]
            for handle in handles[::-1]:
                assert (handle.wait() == 3).all()

    ranks(4, body)


def test_the_same_group_many_times(ranks) -> None:
    def body(world) -> None:
        groups = [world.group(range(world.size)) for _ in range(5)]
        handles = [group.allreduce_async(np.full(1000, i, np.int64)) for i, group in enumerate(groups)]
        for i, handle in list(enumerate(handles))[::-1]:
            assert (handle.wait() == 3 * i).all()

    ranks(3, body)


def test_place(ranks) -> None:
    def body(world) -> None:
        assert (world.local_rank, world.local_size, world.node, world.nodes) == (world.rank, 3, 0, 1)
        assert world.device == "cpu"
        assert f"rank {world.rank} of 3" in repr(world)

    ranks(3, body)

"""Collectives between arrays of any lengths, wherever they lie; reductions that only some ranks want."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdl.collectives import into, reduce_into
from hpcdl.errors import InvalidArgument, Mismatch

SIZES = (1, 2, 3, 4)
VALUES = {"sum": lambda n: n * (n + 1) / 2, "mean": lambda n: (n + 1) / 2, "max": lambda n: n}


def full(n: int, value: int) -> np.ndarray:
    return np.full(n, value, np.uint8)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("lengths", [(3, 0, 100, 50_000), (7, 7, 7, 7), (0, 0, 0, 0)])
def test_all_gather(ranks, n, lengths) -> None:
    def body(world) -> None:
        parts = [full(length, 255) for length in lengths[:n]]
        into.all_gather_into(world._group, full(lengths[world.rank], world.rank), parts).wait()
        assert all((part == rank).all() for rank, part in enumerate(parts))

    ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("length", [0, 5, 70_000])
def test_gather_and_scatter(ranks, n, length) -> None:
    def body(world) -> None:
        group = world._group
        for root in range(n):
            parts = [full(length, 255) for _ in range(n)] if world.rank == root else None
            into.gather_into(group, full(length, world.rank), parts, root).wait()
            assert parts is None or all((part == rank).all() for rank, part in enumerate(parts))
            out = full(length, 255)
            into.scatter_from(group, out, parts, root).wait()
            assert (out == world.rank).all()

    ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
def test_all_to_all(ranks, n) -> None:
    def body(world) -> None:
        group = world._group
        outs = [full(1000 * rank + world.rank, 255) for rank in range(n)]
        into.all_to_all_into(group, [full(1000 * world.rank + rank, 10 * world.rank + rank) for rank in range(n)], outs).wait()
        assert all((out == 10 * rank + world.rank).all() for rank, out in enumerate(outs))
        into.all_to_all_into(group, [full(9, world.rank)] * n, even := [full(9, 255) for _ in range(n)], even=True).wait()
        assert all((out == rank).all() for rank, out in enumerate(even))

    ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("op", VALUES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_reductions(ranks, n, op, dtype) -> None:
    def body(world) -> None:
        group, right = world._group, VALUES[op](n)
        for length in (0, 1, 7, 40_000):
            for root in range(n):
                x = np.full(length, world.rank + 1, dtype)
                reduce_into.reduce_to(group, x, root, op).wait()
                assert (x == (right if world.rank == root else world.rank + 1)).all()
            parts = [np.full(length + rank, world.rank + 1, dtype) for rank in range(n)]
            out = np.zeros(length + world.rank, dtype)
            reduce_into.reduce_scatter_into(group, parts, out, op).wait()
            assert (out == right).all() and all((part == world.rank + 1).all() for part in parts)

    ranks(n, body)


def test_disagreements(ranks) -> None:
    def body(world) -> None:
        odd = world.rank == 2
        for call in (
            lambda group: into.all_gather_into(group, full(4, 0), [full(4, 0), full(5 if odd else 4, 0), full(4, 0)]),
            lambda group: into.all_to_all_into(group, [full(4, 0)] * 3, [full(4, 0), full(5 if odd else 4, 0), full(4, 0)]),
            lambda group: into.gather_into(group, full(4, 0), [full(4, 0)] * 3 if world.rank == odd else None, int(odd)),
            lambda group: reduce_into.reduce_to(group, np.ones(3 if odd else 4), 0, "sum"),
        ):
            group = world.new_group("broken")
            with pytest.raises((Mismatch, InvalidArgument)):
                call(group).wait()
                into.all_gather_into(group, full(1, 0), [full(1, 0)] * 3).wait()
            world.barrier()

    ranks(3, body)


def test_arguments(ranks) -> None:
    def body(world) -> None:
        group = world._group
        for call, told in (
            (lambda: into.all_gather_into(group, full(4, 0), [full(4, 0)]), "one part for each of the 2 ranks"),
            (lambda: into.all_gather_into(group, full(4, 0), [full(5, 0)] * 2), "gives 4 bytes, and has room for 5"),
            (lambda: into.gather_into(group, full(4, 0), None, 2), "root must be 0 to 1, got 2"),
            (lambda: into.scatter_from(group, full(4, 0), [full(3, 0)] * 2, world.rank), "every part must have 4 bytes"),
            (lambda: reduce_into.reduce_scatter_into(group, [np.ones(2)] * 2, np.ones(3), "sum"), "the dtype of out"),
        ):
            with pytest.raises(InvalidArgument, match=told):
                call()

    ranks(2, body)

"""Names whose arrays meet in shared memory: for all ranks or for none, whatever the ranks do meanwhile."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hpcdl.horovod.errors import HorovodInternalError
from hpcdl.horovod.named import Named
from hpcdl.horovod.places import ROOM, Plan
from hpcdl.horovod.wanted import Wanted


def told(named) -> list[str]:
    """The names of which rank 0 is told from now on."""
    names, tell = [], named.table.meetings._tell

    def noting(request) -> None:
        names.append(request.wanted.name)
        tell(request)

    named.table.meetings._tell = noting
    return names


def reduced(named, name, shape=(3,), dtype=np.float32, op="sum"):
    x = np.full(shape, named.world.rank + 1, dtype)
    named.allreduce([x], name, op).wait()
    return x


@pytest.mark.parametrize("n", [2, 3, 4])
def test_from_the_second_time_on(ranks, n) -> None:
    """No message: also for several arrays, short floats, integers, and copies."""

    def body(world) -> None:
        named, names = Named(world), []
        given, out = [np.full(i, world.rank + 1, np.float64) for i in (2, 7)], [np.empty(i) for i in (2, 7)]
        for step in range(5):
            for dtype in ("float16", "float32", "int8", "int64"):
                for op, expected in (("sum", n * (n + 1) // 2), ("max", n), ("average", (n + 1) / 2)):
                    x = reduced(named, f"{op} {dtype}", (3, 2), np.dtype(dtype), op)
                    assert (x == np.array(expected).astype(dtype)).all()
            named.allreduce(out, "both", "sum", given=given, grouped=True).wait()
            assert all((x == n * (n + 1) / 2).all() for x in out)
            names = names if step else told(named)
        assert names == []

    ranks(n, body)


@pytest.mark.parametrize("n", [2, 4])
def test_with_ranks_that_have_joined(ranks, n) -> None:
    """Epochs of unequal lengths, under way in any order. Afterwards all meet again where they met before."""

    def body(world) -> None:
        named = Named(world)
        for epoch in range(6):
            dice = random.Random(epoch)
            lengths = [dice.randrange(6) for _ in range(n)]
            own = random.Random(10 * epoch + world.rank)
            for step in range(lengths[world.rank]):
                arrays = {name: np.full(4, world.rank + 1.0) for name in own.sample("abcde", 5)}
                requests = {name: named.allreduce([x], name, "sum") for name, x in arrays.items()}
                for name in own.sample("abcde", 5):
                    requests[name].wait()
                    assert (arrays[name] == sum(rank + 1 for rank in range(n) if lengths[rank] > step)).all()
            named.join().wait()
        for name in "abcde":
            reduced(named, name)  # as float32, which has no place yet
        names = told(named)
        for _ in range(3):
            assert [reduced(named, name)[0] for name in "abcde"] == [n * (n + 1) / 2] * 5
        assert names == []

    ranks(n, body)


def test_what_is_under_way_when_a_rank_joins(ranks) -> None:
    """It waits for a rank that joins too: both go to rank 0, which must hear of it before it hears that they have joined."""

    def body(world) -> None:
        named = Named(world)
        for _ in range(3):
            reduced(named, "a")
        for _ in range(3):
            if world.rank == 0:
                x = np.ones(3, np.float32)
                under_way = named.allreduce([x], "a", "sum")
                named.join().wait()
                under_way.wait()
                assert (x == 1).all()
            else:
                named.join().wait()
            assert reduced(named, "a")[0] == 6

    ranks(3, body)


def test_another_shape(ranks) -> None:
    """On all ranks: they meet elsewhere. On one: the same error everywhere, and life goes on."""

    def body(world) -> None:
        named = Named(world)
        for _ in range(3):
            for n in (2, 5):
                assert (reduced(named, "a", (n,)) == 6).all()
        for _ in range(3):
            reduced(named, "b")
        with pytest.raises(HorovodInternalError, match=r"ranks disagree on 'b': ranks 0-1: .*shape \[3\].*; rank 2: .*shape \[4\]"):
            reduced(named, "b", (4,) if world.rank == 2 else (3,))
        assert (reduced(named, "b") == 6).all()

    ranks(3, body)


def test_plan() -> None:
    def want(n, **more):
        return Wanted(more.pop("kind", "allreduce"), "a", (("float32", (n,)),), **more)

    plan = Plan(4, ROOM)
    first, second = plan.plot(want(5)), plan.plot(want(1 << 16))
    assert first[0] != second[0] and second[1] - first[1] >= 2 * 5 * 4
    none = [want(0), want(1 << 17), want(5, codec="int8"), want(5, op="adasum"), want(5, kind="allgather")]
    assert [plan.plot(wanted) for wanted in none] == [()] * len(none)
    full = [plan.plot(want(1 << 16)) for _ in range(20)]
    begins = [plot[1] for plot in full if plot]
    assert 4 < len(begins) < 20 and max(begins) + (2 << 18) <= ROOM
    assert Plan(2, 0).plot(want(5)) == ()

"""Operations by name: in any order on different ranks, of any kind, and what they give."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from hpcdl.arrays import BFLOAT16
from hpcdl.errors import InvalidArgument
from hpcdl.horovod.adasum import combine
from hpcdl.horovod.errors import Refused
from hpcdl.horovod.feedback import Dropped
from hpcdl.horovod.named import Named
from hpcdl.horovod.timeline import Timeline

SIZES = (1, 2, 3, 4)


def full(world, n=5, dtype=np.float32):
    return np.full(n, world.rank + 1, dtype)


@pytest.mark.parametrize("n", SIZES)
def test_any_order(ranks, n) -> None:
    """Each rank starts the same names in an order of its own, and waits in another."""

    def body(world) -> None:
        named, names = Named(world), [f"layer {i}" for i in range(60)]
        for step in range(3):
            order = random.Random(10 * step + world.rank)
            arrays = {name: full(world, 1 + i * 97, np.float64) * (i + 1) for i, name in enumerate(names)}
            requests = {name: named.allreduce([arrays[name]], name, "sum") for name in order.sample(names, len(names))}
            for name in order.sample(names, len(names)):
                requests[name].wait()
            for i, name in enumerate(names):
                assert (arrays[name] == (i + 1) * n * (n + 1) / 2).all()

    ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
def test_without_names(ranks, n) -> None:
    """The n-th of a kind meets the n-th of the same kind."""

    def body(world) -> None:
        named, xs = Named(world), [full(world) * i for i in range(5)]
        started = [named.allreduce([x], op="max") for x in xs]
        shared = named.broadcast(full(world, 3), n - 1)
        for request in (shared, *reversed(started)):
            request.wait()
        assert [x[0] for x in xs] == [n * i for i in range(5)]

    ranks(n, body)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "int8"])
@pytest.mark.parametrize("op", ["average", "sum", "min", "max", "product"])
def test_ops(ranks, op, dtype) -> None:
    kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    values = np.array([[1, 100, 7], [2, 3, 9], [4, 110, 1]])

    def body(world) -> None:
        x = values[world.rank].astype(kind)
        Named(world).allreduce([x], "x", op).wait()
        exact = {"average": values.sum(0) / 3, "sum": values.sum(0), "min": values.min(0), "max": values.max(0), "product": values.prod(0)}[
            op
        ]
        want = exact.astype(np.int64).astype(kind) if kind.kind in "iu" else exact.astype(kind)
        assert x.dtype == kind
        if kind.kind in "iu" or op in ("min", "max"):
            assert (x == want).all()
        else:
            np.testing.assert_allclose(x.astype(np.float64), exact, rtol=1e-2 if kind.itemsize < 4 else 1e-6)

    ranks(3, body)


def test_scales(ranks) -> None:
    """Floats: all factors at once. Integers: each in turn, towards zero. Others: before and after."""

    def body(world) -> None:
        named = Named(world)
        floats, ints, least = np.array([3.0, -5.0]), np.array([3, 5, -3]), np.array([3.0, -5.0])
        named.allreduce([floats], "f", "average", 0.5, 4.0).wait()
        named.allreduce([ints], "i", "sum", 0.5, 1.0).wait()
        named.allreduce([least], "m", "min", 2.0, 3.0).wait()
        assert floats.tolist() == [6.0, -10.0] and ints.tolist() == [2, 4, -2] and least.tolist() == [18.0, -30.0]

    ranks(2, body)


@pytest.mark.parametrize("n", SIZES)
def test_gathering(ranks, n) -> None:
    def body(world) -> None:
        named = Named(world)
        mine, flat = np.full((world.rank, 2), world.rank, np.int32), np.array([world.rank], BFLOAT16)
        first, second = named.allgather([mine, flat], "both", grouped=True).wait()
        assert first.shape == (n * (n - 1) // 2, 2) and first.dtype == np.int32
        assert first[:, 0].tolist() == [r for r in range(n) for _ in range(r)] and second.astype(int).tolist() == list(range(n))
        nothing = named.allgather([np.empty((0, 3))], "nothing").wait()[0]
        assert nothing.shape == (0, 3)

    ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
def test_all_to_all(ranks, n) -> None:
    def body(world) -> None:
        named, r = Named(world), world.rank
        out, received = named.alltoall(np.arange(2 * n) + 100 * r, None, "even").wait()
        assert out.tolist() == [100 * peer + 2 * r + i for peer in range(n) for i in (0, 1)] and received == [2] * n
        x = np.arange(n * (n + 1) // 2 + 1) + 100 * r  # one row more than is sent
        out, received = named.alltoall(x, list(range(1, n + 1)), "uneven").wait()
        assert out.tolist() == [100 * peer + r * (r + 1) // 2 + i for peer in range(n) for i in range(r + 1)] and received == [r + 1] * n

    ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_reduce_scatter(ranks, n, rows) -> None:
    def body(world) -> None:
        named = Named(world)
        x = np.arange(rows * 2.0).reshape(rows, 2) * (world.rank + 1)
        out = named.reducescatter([x], "x").wait()[0]
        np.testing.assert_allclose(out, np.array_split(np.arange(rows * 2.0).reshape(rows, 2) * (n + 1) / 2, n)[world.rank])
        whole = named.reducescatter([np.full(rows, 7)], "ints", "average", 1.0, 0.5).wait()[0]
        assert (whole == 3).all() and x[0, 1] == world.rank + 1

    ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adasum(ranks, n, dtype) -> None:
    vectors = np.random.default_rng(0).normal(size=(n, 1001)).astype(dtype)
    tree = list(vectors)
    while len(tree) > 1:
        tree = [combine(a, b) for a, b in zip(tree[::2], tree[1::2], strict=True)]

    def body(world) -> None:
        x = vectors[world.rank].copy()
        Named(world).allreduce([x], "x", "adasum").wait()
        assert x.tobytes() == tree[0].tobytes()

    ranks(n, body)


def test_adasum_of_three(ranks) -> None:
    def body(world) -> None:
        with pytest.raises(NotImplementedError, match="non-power of 2"):
            Named(world).allreduce([full(world)], "x", "adasum")

    ranks(3, body)


def test_long_texts(ranks) -> None:
    """Names that fill several messages."""

    def body(world) -> None:
        named = Named(world)
        x, name = full(world), "a long name " * 20_000
        named.allreduce([x], name, "sum").wait()
        many = [full(world, 1 + i % 7) for i in range(4000)]
        named.allreduce(many, "many", "sum", grouped=True).wait()
        assert x[0] == 6 and all((y == 6).all() for y in many)

    ranks(3, body)


@pytest.mark.parametrize("n", SIZES)
def test_join(ranks, n) -> None:
    """Zeros stand for who has joined, in averages too; the last to join is told."""

    def body(world) -> int:
        named, r = Named(world), world.rank
        for step in range(r + 1):
            x, y = np.array([4.0]), np.array([4, 8])
            named.allreduce([x], f"x{step}").wait()
            named.allreduce([y, y.copy()], "y", "min", grouped=True).wait()
            assert x[0] == 4 * (n - step) / n and (y == (4, 8) if step == 0 else y == 0).all()
        last = named.join().wait()
        assert last == n - 1
        x = np.array([1.0])
        named.allreduce([x], "after", "sum").wait()
        assert x[0] == n
        return last

    ranks(n, body)


def test_barrier_and_agreement(ranks) -> None:
    def body(world) -> None:
        named = Named(world)
        named.barrier().wait()
        named.agree("something", [1, 2])

    ranks(3, body)


def test_wrong_calls(ranks) -> None:
    """Told at once, on the rank that makes them; nobody else notices."""

    def body(world) -> None:
        named = Named(world)
        with pytest.raises(Refused, match="only supports AVERAGE and SUM"):
            named.reducescatter([full(world)], "x", "min")
        with pytest.raises(Refused, match="floating"):
            named.allreduce([full(world, dtype=np.int32)], "x", "adasum")
        for wrong in (
            lambda: named.allreduce([full(world)], "x", "median"),
            lambda: named.allreduce([np.zeros(3, complex)], "x"),
            lambda: named.allreduce([np.zeros((4, 4)).T[1:]], "x"),
            lambda: named.allgather([np.array(1.0)], "x"),
            lambda: named.alltoall(np.zeros(5), None, "x"),
            lambda: named.alltoall(np.zeros(5), [1], "x"),
            lambda: named.alltoall(np.zeros(5), [3, 3], "x"),
            lambda: named.broadcast(full(world), 2, "x"),
        ):
            with pytest.raises(InvalidArgument):
                wrong()
        x = full(world)
        named.allreduce([x], "x", "sum").wait()
        assert x[0] == 3

    ranks(2, body)


def test_a_name_in_flight(ranks) -> None:
    def body(world) -> None:
        named, x = Named(world), full(world)
        if world.rank == 0:
            first = named.allreduce([x], "x", "sum")
            with pytest.raises(Refused, match="'x' is in flight"):
                named.allreduce([full(world)], "x", "sum")
            world.barrier()
            first.wait()
        else:
            world.barrier()
            named.allreduce([x], "x", "sum").wait()
        assert x[0] == 3

    ranks(2, body)


def test_timeline(ranks, shared_path) -> None:
    def body(world) -> None:
        timeline, path = Timeline(), shared_path / f"timeline.{world.rank}.json"
        named = Named(world, timeline)
        timeline.start(str(path))
        for _ in range(3):
            named.allreduce([full(world)], "conv").wait()
        named.barrier().wait()
        timeline.stop()
        events = json.loads(path.read_text())
        of_conv = [(event["name"], event["ph"]) for event in events if event["tid"] == 1 and event["ph"] in "BE"]
        assert of_conv == 3 * [("NEGOTIATE_ALLREDUCE", "B"), ("NEGOTIATE_ALLREDUCE", "E"), ("ALLREDUCE", "B"), ("ALLREDUCE", "E")]

    ranks(2, body)


@pytest.mark.parametrize("n", SIZES)
def test_nothing_stays_open(ranks, n) -> None:
    """Whoever comes last: the operations are over, and leaving does not wait for them."""

    def body(world) -> None:
        named = Named(world.group(range(n)))
        for last in range(n):
            if world.rank == last:
                world.barrier()
            requests = [named.barrier(f"b{last}"), named.allreduce([np.empty(0)], "empty"), named.join()]
            if world.rank != last:
                world.barrier()
            for request in requests:
                request.wait()
            assert not named.table._active and not named.data._active
        named.close()

    ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("codec", ["int8", "sign", "topk", "randomk", "powersgd"])
def test_error_feedback(ranks, n, codec) -> None:
    """What is given is what is applied and what is still held back: several arrays at once, twice at a time, of shapes that change."""

    def body(world) -> None:
        named, dropped, other = Named(world), [Dropped(), Dropped(), Dropped()], Dropped()
        given, applied = np.zeros(40 * 30), np.zeros(40 * 30)
        for step in range(6):
            arrays = [np.random.default_rng(10 * step + world.rank).normal(size=s) for s in ((40, 30), (), (0, 3))]
            again = arrays[0] * 0.5
            given += 1.5 * arrays[0].reshape(-1)
            first = named.allreduce(arrays, "x", "sum", codec=codec, grouped=True, dropped=dropped)
            second = named.allreduce([again], "y", "average", 2.0, n / 2, codec=codec, dropped=dropped[:1])
            small = np.full(3 + step // 3, 0.5, np.float32)
            named.allreduce([small], "z", "sum", codec=codec, dropped=[other]).wait()
            first.wait()
            second.wait()
            applied += (arrays[0] + again).reshape(-1)
        held = dropped[0].residual
        assert held.shape == (40, 30) and other.residual.shape == (4,) and other.residual.dtype == np.float32
        for x in (given, held):
            named.allreduce([x], op="sum").wait()
        np.testing.assert_allclose(applied + held.reshape(-1), given, atol=1e-4)
        if n == 1 or codec in ("randomk", "sign", "topk"):
            assert bool(held.any()) == (n > 1)

    ranks(n, body)

"""Memory that the ranks of a node share: in place, through slots, in one step; several nodes; and what happens in trouble."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import hpcdl
from hpcdl.collectives.quick import allreduce as quick_allreduce
from hpcdl.errors import InvalidArgument, Mismatch
from hpcdl.transport.threads import ThreadHub
from hpcdl.world import World

SIZES = [0, 1, 2, 63, 64, 65, 1000, 16_384, 70_001, 700_001]  # in one step, in one piece, in several


def gradient(rank: int, n: int, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng((rank, n)).standard_normal(n) * 8).astype(dtype)


def total(size: int, n: int, dtype: str = "float32") -> np.ndarray:
    return sum(gradient(rank, n, dtype).astype(np.float64) for rank in range(size))


def on_nodes(size: int, nodes: int, body) -> list:
    """`body` on ranks as threads, on several nodes."""
    hub, results, errors = ThreadHub(size, nodes), [None] * size, []

    def one(rank: int) -> None:
        try:
            world = World(hub.transport(rank), timeout=30)
            results[rank] = body(world)
            world.close()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.mark.parametrize("op", ["sum", "mean"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_arrays_of_ones_own_and_in_buffers(ranks, size, op) -> None:
    def body(world) -> list[bytes]:
        found = []
        for n in SIZES:
            expected = total(world.size, n) / (world.size if op == "mean" else 1)
            buffer = world.buffer(n)
            buffer[:] = gradient(world.rank, n)
            for x in (gradient(world.rank, n), buffer):
                assert world.allreduce(x, op, collective="shared-memory") is x
                assert np.allclose(x, expected, atol=1e-4)
                found.append(x.tobytes())
        return found

    everyone = ranks(size, body)
    assert everyone is None or all(found == everyone[0] for found in everyone)


def test_results_may_be_changed_in_place(ranks) -> None:
    """Clipping, unscaling, zeroing: no neighbour sees it, however late it looks."""

    def body(world) -> None:
        x = world.buffer((300, 100))
        for step in range(20):
            x[...] = world.rank + step
            world.allreduce(x, "mean", collective="shared-memory")
            x *= world.rank + 1
            world.barrier()
            assert (x == (world.rank + 1) * ((world.size - 1) / 2 + step)).all()

    ranks(4, body)


def test_parts_of_a_buffer(ranks) -> None:
    """Slices are recognised as such, in any order of handles; buffers in other buffers' memory do not exist."""

    def body(world) -> None:
        x, y = world.buffer(200_000, "float64"), world.buffer(100_000, "int32")
        x[:], y[:] = world.rank + 1.0, world.rank + 1
        handles = [world.allreduce_async(part) for part in (x[:50_000], y, x[50_000:120_000], x[120_000:])]
        for handle in reversed(handles):
            handle.wait()
        assert (x == 6).all() and (y == 6).all()

    ranks(3, body)


def test_a_buffer_beside_a_plain_array(ranks) -> None:
    def body(world) -> None:
        buffer = world.buffer(100_000)
        with pytest.raises(Mismatch, match="at 0 of buffer 0"):
            world.allreduce(buffer if world.rank else np.zeros(100_000, np.float32))

    ranks(2, body)


def test_buffers_of_different_sizes(ranks) -> None:
    def body(world) -> None:
        with pytest.raises(Mismatch, match=r"buffer\(float32 of shape \(100,\)\)"):
            world.buffer(100 + world.rank)

    ranks(2, body)


@pytest.mark.parametrize(
    ("shape", "dtype"), [(3.5, "float32"), (None, "float32"), ((2, -1), "float32"), (4, "fp16"), (4, object), (1 << 62, "u1")]
)
def test_buffers_that_cannot_be(shape, dtype) -> None:
    with pytest.raises(InvalidArgument):
        World.solo().buffer(shape, dtype)


def test_nothing_takes_as_many_steps_as_something(ranks) -> None:
    """An empty array, on one rank by the short way and on another by the long one."""

    def body(world) -> None:
        for _ in range(3):
            handle = world.allreduce_async(np.ones(300_000, np.float32), collective="ring")
            if world.rank:
                handle.wait()
            world.allreduce(np.zeros(0, np.float32), collective="shared-memory")
            handle.wait()
            assert (world.allreduce(np.ones(5, np.float32), collective="shared-memory") == world.size).all()

    ranks(3, body)


def test_a_closed_group_leaves_no_memory(ranks) -> None:
    def body(world) -> None:
        inner = world.group(range(world.size))
        inner.allreduce(np.ones(10, np.float32), collective="shared-memory")
        inner.allreduce(np.ones(300_000, np.float32), collective="shared-memory")
        board = weakref.ref(inner._group.buffers.board)
        inner.close()
        inner.close()
        gc.collect()
        assert board() is None

    ranks(2, body)


def test_a_late_rank_on_the_short_way(ranks) -> None:
    """One rank comes long after the others have stopped spinning."""

    def body(world) -> None:
        for late in range(world.size):
            if world.rank == late:
                threading.Event().wait(0.05)
            assert (world.allreduce(np.ones(10, np.float32)) == world.size).all()

    ranks(3, body)


def test_ranks_disagree_on_the_short_way(ranks) -> None:
    def body(world) -> None:
        world.allreduce(np.ones(3))
        with pytest.raises(Mismatch, match="float64 of shape 4"):
            world.allreduce(np.ones(3 + world.rank))

    ranks(2, body)


def test_the_short_way_and_the_long_one_mix(ranks) -> None:
    def body(world) -> None:
        for i in range(50):
            handles = [world.allreduce_async(np.full(n, i, np.float32)) for n in (5, 50_000)[: i % 3]]
            assert (world.allreduce(np.full(7, i, np.float32)) == i * world.size).all()
            if i % 2:
                assert (world.allreduce(np.full(5, 1.0), op="mean", weight=world.rank) == 1).all()
            for handle in handles:
                assert (handle.wait() == i * world.size).all()

    ranks(3, body)


def test_small_calls_do_go_the_short_way(ranks) -> None:
    def body(world) -> None:
        world.barrier()
        x = np.ones(100, np.float32)
        assert quick_allreduce(world._group, x, "mean", None, "shared-memory", "") and (x == 1).all()
        world.barrier()

    ranks(2, body)


@pytest.mark.parametrize("codec", ["none", "fp16", "int8"])
@pytest.mark.parametrize(("size", "nodes"), [(4, 2), (5, 2), (7, 3), (5, 3), (6, 6), (3, 1)])
def test_two_levels(size, nodes, codec) -> None:
    """Also on nodes of unequal size: 3 + 2, 3 + 2 + 2, and 2 + 2 + 1."""

    def body(world) -> list[bytes]:
        found = []
        for n in SIZES:
            expected = total(size, n) / size
            buffer = world.buffer(n)
            buffer[:] = gradient(world.rank, n)
            for x in (gradient(world.rank, n), buffer):
                world.allreduce(x, "mean", codec, "two-level")
                assert np.allclose(x, expected, atol=1e-4 if codec == "none" else 0.4)
                found.append(x.tobytes())
        return found

    everyone = on_nodes(size, nodes, body)
    assert all(found == everyone[0] for found in everyone)


@pytest.mark.parametrize(("size", "nodes"), [(6, 1), (4, 2)])
def test_many_ranks_and_several_nodes(size, nodes) -> None:
    """More ranks than read everything of each other; and ranks that do not all share a node, where it is a ring."""

    def body(world) -> list[bytes]:
        found = []
        for n in SIZES:
            buffer = world.buffer(n)
            buffer[:] = gradient(world.rank, n)
            for x in (gradient(world.rank, n), buffer):
                world.allreduce(x, collective="shared-memory")
                assert np.allclose(x, total(size, n), atol=1e-4)
                found.append(x.tobytes())
        return found

    everyone = on_nodes(size, nodes, body)
    assert all(found == everyone[0] for found in everyone)


def test_two_levels_lose_nothing_to_a_codec() -> None:
    def body(world) -> None:
        n = 3000
        residual = np.zeros(n, np.float32)
        for step in range(4):
            x = gradient(world.rank + 10 * step, n)
            before = world.allgather(np.stack([x, residual])[None]).astype(np.float64).sum(axis=(0, 1))
            world.allreduce(x, codec="int8", collective="two-level", error_feedback=residual)
            after = x + world.allgather(residual[None]).astype(np.float64).sum(axis=0)
            assert np.abs(before - after).max() < 1e-3

    on_nodes(5, 2, body)


def test_between_nodes_each_local_rank_sends_its_slice() -> None:
    """2n(q-1)/q bytes leave each node, shared evenly by its ranks."""

    def body(world) -> int:
        before = world.bytes_sent
        world.allreduce(np.ones(1 << 18, np.float32), collective="two-level")
        return world.bytes_sent - before

    for sent in on_nodes(4, 2, body):
        assert abs(sent - (1 << 20) / 2) < 200


def test_a_reducer_in_buffers(ranks) -> None:
    """Buckets lie in shared memory; views outlive the reducer."""

    def body(world) -> None:
        reducer = hpcdl.Reducer(world, [(300, 300), (7,), (120_000,)], bucket_bytes=1 << 18)
        for step in range(3):
            for i, view in enumerate(reducer.views):
                view[...] = (i + 1) * (world.rank + step)
                reducer.ready(i)
            reducer.wait()
            for i, view in enumerate(reducer.views):
                assert np.allclose(view, (i + 1) * ((world.size - 1) / 2 + step))
        kept = reducer.views[0]
        reducer.close()
        assert np.allclose(kept, (world.size - 1) / 2 + 2)

    ranks(4, body)


def test_windows_come_and_go(ranks) -> None:
    def body(world) -> None:
        for _ in range(30):
            inner = world.group(range(world.size))
            inner.buffer(1 << 20)[:] = 1
            inner.close()

    ranks(2, body)

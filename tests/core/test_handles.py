"""Asynchronous operations: any order of waiting, time-outs, and progress behind the user's back."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hpcdl.errors import WaitTimeout


def test_opposite_wait_orders(ranks) -> None:
    def body(world) -> None:
        for _ in range(5):
            handles = [world.allreduce_async(np.full(20_000, i, np.float32), collective=c) for i, c in enumerate(["ring", "native"] * 5)]
            order = handles if world.rank % 2 else handles[::-1]
            for handle in order:
                handle.wait()
            assert all((handle.wait() == 4 * i).all() and handle.done() for i, handle in enumerate(handles))

    ranks(4, body)


def test_blocking_calls_between_the_start_and_the_wait(ranks) -> None:
    def body(world) -> None:
        early = world.allreduce_async(np.ones(300_000, np.float32), codec="fp16")
        assert world.allreduce(np.array([1.0]))[0] == 3
        world.barrier()
        assert (early.wait() == 3).all()

    ranks(3, body)


def test_a_time_out_leaves_the_operation_alive(ranks) -> None:
    def body(world) -> None:
        if world.rank == 1:
            time.sleep(0.5)
        handle = world.allreduce_async(np.ones(10))
        if world.rank == 0:
            with pytest.raises(WaitTimeout, match=r"rank 0 of 2: allreduce\(sum, float64 of shape 10.*after 0.05 s"):
                handle.wait(timeout=0.05)
            assert not handle.done()
        assert (handle.wait() == 2).all()

    ranks(2, body)


def test_progress_while_the_user_computes(ranks) -> None:
    def body(world) -> bool:
        world.barrier()
        before = world.progress_cpu_seconds
        handle = world.allreduce_async(np.ones(500_000, np.float32), collective="ring")
        time.sleep(1.0)  # nobody waits, nobody polls: the background thread works
        finished = handle.finished
        assert 0 < world.progress_cpu_seconds - before < 1, "CPU seconds, which are less than it slept"
        handle.wait()
        return finished

    assert ranks(2, body) in (None, [True, True])


def test_done_alone_makes_progress(ranks) -> None:
    def body(world) -> None:
        handle = world.allreduce_async(np.ones(100_000, np.float32))
        begun = time.monotonic()
        while not handle.done():
            assert time.monotonic() - begun < 60
        assert (handle.wait() == 3).all()

    ranks(3, body)


def test_many_at_once(ranks) -> None:
    def body(world) -> None:
        handles = [world.allreduce_async(np.full(i, world.rank, np.int32)) for i in range(200)]
        assert all((handle.wait() == 3).all() for handle in handles)

    ranks(3, body)

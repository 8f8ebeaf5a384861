"""The plan in a checkpoint: in the same place `auto` chooses as it did, in another as it would."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from hpcdl import Reducer
from hpcdl.checkpoint import Checkpoint
from hpcdl.collectives.costs import ASSUMED, Native, Shared
from hpcdl.collectives.plan import plan_for

SLOW = replace(ASSUMED, measured=True, native=Native(1.0, 1e-3), shared=Shared(1.0, 1e-3))  # so that schedules are chosen


def follow(world, costs) -> None:
    """As if that had been measured at the start."""
    group = world._group
    group.follow(costs, plan_for(costs, group.transport, group.buffers.board is not None))


def sums(world, reducer=None):
    """What `auto` makes of many numbers, by sizes; and a reducer of them."""
    numbers = np.random.default_rng(world.rank)
    found = [world.allreduce(numbers.normal(size=n).astype(np.float32)).tobytes() for n in (10, 1000, 100_003)]
    reducer = reducer or Reducer(world, [(1000,), (100_003,)])
    for i, view in enumerate(reducer.views):
        view[...] = numbers.normal(size=view.shape)
        reducer.ready(i)
    reducer.wait()
    return [*found, *(view.tobytes() for view in reducer.views)]


def test_it_is_followed_in_the_same_place(ranks, shared_path, caplog) -> None:
    """By a reducer that was made before, and by what is made afterwards; sums keep their order."""

    def body(world) -> None:
        follow(world, SLOW)
        then, plan = sums(world), world.plan
        with Checkpoint(shared_path, world, {"x": {"a": 1}}) as one:
            one.save(1)
        follow(world, ASSUMED)
        assert world.plan != plan
        reducer, before, early = Reducer(world, [(1000,), (100_003,)]), sums(world), world.group(range(world.size))
        assert before != then
        with Checkpoint(shared_path, world, {"x": {"a": 0}}) as two:
            assert two.restore() == 1
        assert world.plan == plan and world.costs == SLOW
        assert early.plan == plan == world.group(range(world.size)).plan
        assert sums(world, reducer) == then == sums(early)

        follow(world, ASSUMED)
        fewer = world.group([0, 1]) if world.rank < 2 else None
        if fewer is not None:
            here = fewer.plan
            with caplog.at_level(logging.INFO, "hpcdl.checkpoint"), Checkpoint(shared_path, fewer, {"x": {"a": 0}}) as three:
                assert three.restore() == 1 and fewer.plan == here
            if world.rank == 0 and caplog.messages:  # heard by one of the ranks, where these are threads
                assert any("plan is not used: nodes: [0, 0, 0, 0] then, [0, 0] now" in message for message in caplog.messages)
        world.barrier()

    ranks(4, body)

"""A device without room for the buckets that were asked for: smaller ones on all ranks, or the same error on all."""

import warnings

import pytest
from harness.outcome import RankFailure

from device.places import own_stream
from device.test_overlap import SHAPES, write
from hpcdl.errors import OutOfMemory
from hpcdl.reduction.reducer import Reducer

LARGE = [(40_064,)] * 8  # whole blocks
BYTES = sum(4 * n for (n,) in LARGE)


def made(world, cupy, limit, rank=1, **how):
    """A reducer while the device of `rank` has room for `limit` bytes; with what was said."""
    if world.rank == rank:
        cupy.machine.memory.limit[world.rank] = limit
    world.barrier()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        return Reducer(world, LARGE, like=cupy.empty(0), bucket_bytes=BYTES, **how), [str(each.message) for each in said]


@pytest.mark.ways("mpi")  # warnings are caught for a whole process
@pytest.mark.parametrize("how", [{}, {"codec": "fp16", "error_feedback": True}, {"dtype": "float16"}], ids=str)
def test_smaller_buckets_on_all_ranks(ranks, cupy, how):
    def body(world):
        nbytes = BYTES // 2 if "dtype" in how else BYTES
        feedback = BYTES if "error_feedback" in how else 0
        with own_stream(cupy, world):
            reducer, said = made(world, cupy, nbytes + feedback + BYTES * 3 // 2, **how)
            assert len(reducer._buckets) > 1
            assert len(said) == (world.rank == 1), said
            if said:
                assert f"rank 1 of {world.size}: no room on its device for gradient buckets of {nbytes:,} bytes" in said[0]
            reducer.begin(1)
            for i, view in enumerate(reducer.views):
                view[...] = world.rank + i
                reducer.ready(i)
            reducer.wait()
            world.barrier()

    ranks(2, body)


def test_no_room_at_all_is_an_error_on_every_rank(ranks, cupy):
    def body(world):
        with own_stream(cupy, world), pytest.raises(OutOfMemory, match=r"rank 1 of 2: no room on the device for the gradients \(1,282,048"):
            made(world, cupy, BYTES // 2)
        world.barrier()
        with own_stream(cupy, world):  # nothing is left behind, and the world goes on
            cupy.machine.memory.limit.pop(world.rank, None)
            reducer = Reducer(world, SHAPES, like=cupy.empty(1))
            reducer.begin(1)
            write(world, cupy, reducer, 0)
            reducer.wait()
            world.barrier()

    ranks(2, body)


@pytest.mark.ways("mpi")
def test_with_room_nothing_is_said(ranks, cupy):
    def body(world):
        with own_stream(cupy, world):
            reducer, said = made(world, cupy, 100 * BYTES)
            assert not said and len(reducer._buckets) == 1

    ranks(2, body)


@pytest.mark.ways("threads")
def test_there_is_room_for_all_buckets_that_are_under_way_at_a_time(ranks, cupy):
    """Room for the wires of one bucket, but not of two, is not enough for two at a time: told at the start, and no step runs out."""
    n = 34_048  # its wires take a little more than a power of two: nearly half of their buffer is spare
    nbytes, one = 4 * n, 40 * n  # of a bucket, and what is asked for to reduce it

    def body(world):
        with own_stream(cupy, world):
            cupy.machine.memory.limit[world.rank] = 2 * nbytes + 2 * nbytes + one * 5 // 4
            reducer = Reducer(world, [(n,)] * 2, "topk:ratio=1", like=cupy.empty(0), bucket_bytes=nbytes, in_flight=2)
            for i, view in enumerate(reducer.views):
                view[...] = world.rank + i
                reducer.ready(i)
            reducer.wait()
            world.barrier()

    with pytest.raises(RankFailure, match=r"OutOfMemory: .*no room on the device for the gradients"):
        ranks(2, body)

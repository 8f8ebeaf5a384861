"""Reductions run beside what the caller computes, in streams of their own, and are in order with it by events alone."""

import threading

import numpy as np
import pytest

from device.places import gradient, own_stream, same, up
from hpcdl import World
from hpcdl.errors import NonFinite
from hpcdl.reduction.reducer import Reducer

SHAPES = [(300,), (40, 10), (7,)]
HOW = ["none", "fp16", "int8", "int8-stochastic", "topk:ratio=0.1", "randomk:ratio=0.1", "sign", "powersgd:rank=1"]
MEMORY = {"malloc", "free"}  # what makes a device wait for all that it has to do


def write(world, library, reducer, step):
    """This rank's gradients, each with a `ready`."""
    for i in reversed(range(len(SHAPES))):
        reducer.views[i][...] = library.asarray(gradient(world.rank + 7 * step, reducer.views[i].size).reshape(SHAPES[i]))
        reducer.ready(i)


@pytest.mark.parametrize("check_finite", [False, True])
@pytest.mark.parametrize("codec", HOW)
def test_nothing_waits_for_the_device_or_touches_its_null_stream(ranks, cupy, codec, check_finite):
    """Kernels of a step are in the caller's stream or the reducer's; memory comes from the pool; the host waits for nothing."""

    def body(world):
        with own_stream(cupy, world):
            mine = cupy.cuda.get_current_stream()
            reducer = Reducer(world, SHAPES, codec, "ring", bucket_bytes=1024, like=cupy.empty(1), check_finite=check_finite, in_flight=1)
            kinds, log = [], []
            for step in range(8):
                world.barrier()
                begun = len(cupy.machine.log)
                world.barrier()
                reducer.begin(1)
                write(world, cupy, reducer, step)
                reducer.wait()
                world.barrier()
                log = [record for record in cupy.machine.log[begun:] if record.device == world.rank]
                kinds.append({record.kind for record in log})
            assert not cupy.machine.waits
            assert 0 not in {record.stream for record in log}
            assert any(not found & MEMORY for found in kinds), "the pool asks the device for memory in every step"
            streams = {record.stream for record in log if record.kind == "kernel"} - {mine.ptr}
            assert len(streams) == 1, "one bucket is under way at a time, and has one stream"
            assert not any(record.stream == mine.ptr and "progress" in record.thread for record in log)
            world.barrier()

    ranks(2, body)


@pytest.mark.parametrize("codec", ["none", "fp16", "topk:ratio=0.1"])
def test_a_bucket_is_reduced_while_the_caller_s_stream_has_more_to_do(ranks, cupy, codec):
    def body(world):
        with own_stream(cupy, world):
            mine = cupy.machine.queue(world.rank, cupy.cuda.get_current_stream().ptr)
            reducer = Reducer(world, SHAPES, codec, "ring", bucket_bytes=1024, like=cupy.empty(1))
            reducer.begin(1)
            reducer.views[2][...] = 1
            reducer.ready(2)
            reducer.views[1][...] = 1
            reducer.ready(1)
            there, more = mine.submitted, cupy.zeros(5)
            more += 1
            for operation in reducer._step.running:
                operation.settle()
            assert mine.done <= there < mine.submitted, "the reduction has waited for what the caller queued after the gradient"
            reducer.views[0][...] = 1
            reducer.ready(0)
            reducer.wait()
            assert not cupy.machine.waits

    ranks(2, body)


@pytest.mark.parametrize("codec", ["none", "int8", "randomk:ratio=0.2"])
def test_gradients_from_several_streams_and_threads(ranks, cupy, codec):
    """A bucket waits for all streams that its gradients came from; who waits from yet another stream is in order, too."""

    def steps(world, library, like, around):
        reducer = Reducer(world, SHAPES, codec, "ring", like=like)
        for step in range(2):
            reducer.begin(1)
            for i in range(len(SHAPES)):
                around(lambda i=i, step=step: one(world, library, reducer, i, step))
            reducer.wait()
        return reducer.views

    def one(world, library, reducer, i, step):
        reducer.views[i][...] = library.asarray(gradient(world.rank + 7 * step, reducer.views[i].size).reshape(SHAPES[i]))
        reducer.ready(i)

    def body(world):
        expected = steps(world, np, None, lambda call: call())

        def elsewhere(call):
            def run():
                with own_stream(cupy, world) as _:
                    cupy.cuda.get_current_stream().wait_event(before)
                    call()

            before = cupy.cuda.get_current_stream().record()
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

        with own_stream(cupy, world):
            views = steps(world, cupy, cupy.empty(1), elsewhere)
            for view, wanted in zip(views, expected, strict=True):
                same(view.get(), wanted)

    ranks(2, body)


@pytest.mark.parametrize("mode", ["deferred", "eager"], indirect=True)
def test_wait_puts_the_waiting_stream_behind_the_operation(ranks, cupy, mode):
    """A handle may be waited for where another stream is current than the one in which it was started."""

    def body(world):
        x = gradient(world.rank, 2000)
        expected = world.allreduce(x.copy(), "mean", "fp16", "ring")
        with own_stream(cupy, world):
            mine = up(cupy, x)
            handle = world.allreduce_async(mine, "mean", "fp16", "ring")
        with own_stream(cupy, world):
            handle.wait()
            assert not cupy.machine.waits
            world.barrier()
            same(mine.get(), expected)

    ranks(2, body)


def test_many_buckets_in_flight(ranks, cupy):
    def steps(world, library, like):
        reducer = Reducer(world, [(200,)] * 9, "fp16", "ring", bucket_bytes=800, like=like, in_flight=4)
        for step in range(3):
            for i in reversed(range(9)):
                reducer.views[i][...] = library.asarray(gradient(world.rank + 10 * i + step, 200))
                reducer.ready(i)
            reducer.wait()
        return reducer.views

    def body(world):
        expected = steps(world, np, None)
        with own_stream(cupy, world):
            views = steps(world, cupy, cupy.empty(1))
            for view, wanted in zip(views, expected, strict=True):
                same(view.get(), wanted)

    ranks(3, body)


def test_check_finite_looks_at_the_device_once(cupy):
    world = World.solo()
    with own_stream(cupy, world):
        reducer = Reducer(world, SHAPES, like=cupy.empty(1), bucket_bytes=1024, check_finite=True, dtype=["float32", "bfloat16", "float64"])
        for step in range(3):
            before = len(cupy.machine.log)
            for i, view in enumerate(reducer.views):
                view[...] = np.nan if (i, step) == (1, 1) else 1
                reducer.ready(i)
            if step == 1:
                with pytest.raises(NonFinite, match="rank 0 of 1 in the gradient of 'parameter 1'"):
                    reducer.wait()
            else:
                reducer.wait()
            assert [record.kind for record in cupy.machine.log[before:]].count("to host") == 1
        assert not cupy.machine.waits
    world.close()


def test_after_an_error_the_next_step_is_in_order(ranks, cupy):
    """NonFinite is raised with the reduction still queued; what the caller writes next comes after it."""

    def body(world):
        with own_stream(cupy, world):
            reducer = Reducer(world, SHAPES, "fp16", "ring", like=cupy.empty(1), check_finite=True)
            for value in (np.inf, 2.0, np.nan, 3.0):
                for i, view in enumerate(reducer.views):
                    view[...] = value
                    reducer.ready(i)
                if np.isfinite(value):
                    reducer.wait()
                    assert (reducer.views[0].get() == value).all()
                else:
                    with pytest.raises(NonFinite, match="parameter 0"):
                        reducer.wait()

    ranks(2, body)

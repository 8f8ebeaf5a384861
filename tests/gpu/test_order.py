"""The order of work on real streams: nothing is read before it is there, and nobody waits who need not."""

import numpy as np
import pytest
from device.places import gradient, same

from hpcdl.arrays.gpu import Gpu
from hpcdl.errors import OutOfMemory
from hpcdl.reduction.reducer import Reducer


@pytest.mark.parametrize("codec", ["none", "fp16", "int8"])
def test_a_reduction_waits_for_what_the_call_s_stream_has_to_do(ranks, cupy, busy, codec):
    def body(world):
        expected = world.allreduce(gradient(world.rank, 100_000), "mean", codec, "ring")
        with Gpu(world.local_rank):
            for really in (False, True):
                mine, x = cupy.zeros(100_000, "f4"), cupy.asarray(gradient(world.rank, 100_000))
                cupy.cuda.get_current_stream().synchronize()
                world.barrier()
                work = busy()
                if not really:
                    work.stop()
                mine += x  # behind the busy kernel
                handle = world.allreduce_async(mine, "mean", codec, "ring")
                assert not (really and handle.done())
                work.stop()
                handle.wait()
                same(mine.get(), expected)
                del work  # its memory is for the next one

    ranks(2, body)


def test_wait_puts_another_stream_behind(ranks, cupy):
    def body(world):
        for _ in range(20):
            expected = world.allreduce(gradient(world.rank, 50_000), "mean", "fp16", "ring")
            with Gpu(world.local_rank):
                mine = cupy.asarray(gradient(world.rank, 50_000))
                handle = world.allreduce_async(mine, "mean", "fp16", "ring")
            with Gpu(world.local_rank):
                handle.wait()
                same((mine + 0).get(), expected)

    ranks(2, body)


@pytest.mark.parametrize("codec", ["none", "fp16", "topk:ratio=0.1", "sign"])
def test_a_bucket_is_reduced_while_the_caller_s_stream_is_busy(ranks, cupy, busy, codec):
    """Backward goes on for as long as it likes; the bucket that it has filled is reduced meanwhile."""

    def body(world):
        with Gpu(world.local_rank):
            reducer = Reducer(world, [(1000,), (100_000,)], codec, "ring", bucket_bytes=4000, like=cupy.empty(1))
            for step in range(3):
                reducer.begin(1)
                reducer.views[1][...] = world.rank + 1
                world.barrier()
                reducer.ready(1)
                work = busy()
                if not step:
                    work.stop()
                for operation in reducer._step.running:
                    operation.settle()
                assert not (step and work.over), "the reduction has waited for what came after its gradients"
                reducer.views[0][...] = 1
                reducer.ready(0)
                work.stop()
                reducer.wait()
                del work
            assert (reducer.views[0].get() == 1).all() or codec != "none"

    ranks(2, body)


@pytest.mark.parametrize("codec", ["none", "fp16", "int8", "topk:ratio=0.1", "randomk:ratio=0.1", "powersgd:rank=2"])
def test_many_steps_equal_the_host(ranks, cupy, codec):
    """Buckets are written again as soon as `wait` has returned, with the reduction still queued."""
    shapes = [(64, 100), (100,), (100, 30), (30,)]

    def steps(world, library, like):
        reducer = Reducer(world, shapes, codec, "ring", bucket_bytes=8000, like=like, check_finite=True)
        for step in range(30):
            reducer.begin(world.rank + 1)
            for i in reversed(range(len(shapes))):
                reducer.views[i][...] = library.asarray(gradient(world.rank + 7 * step, reducer.views[i].size).reshape(shapes[i]))
                reducer.ready(i)
            reducer.wait()
        return reducer.views

    def body(world):
        expected = steps(world, np, None)
        with Gpu(world.local_rank):
            for view, wanted in zip(steps(world, cupy, cupy.empty(1)), expected, strict=True):
                if codec.startswith("powersgd"):  # a rank's own share goes through BLAS, which rounds in its own way
                    assert np.allclose(view.get(), wanted, rtol=1e-2, atol=1e-2 * abs(wanted).max())
                else:
                    same(view.get(), wanted)

    ranks(2, body)


def test_room(ranks, cupy):
    """A pool with a limit is out of memory like a device."""

    def body(world):
        with Gpu(world.local_rank):
            pool = cupy.get_default_memory_pool()  # one for all ranks that are threads and share the device
            before = pool.get_limit()
            world.barrier()
            pool.set_limit(size=pool.used_bytes() + (8 << 20))  # not of total_bytes: what nobody uses would be given back, and do
            try:
                with pytest.raises(OutOfMemory, match="no room on the device for the gradients"):
                    Reducer(world, [(1 << 22,)], like=cupy.empty(1))
            finally:
                world.barrier()
                pool.set_limit(size=before)

    ranks(2, body)

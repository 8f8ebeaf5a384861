"""Named operations on device arrays: in the queue of their call, whichever thread begins and ends them."""

import random

import numpy as np
import pytest

from device.places import gradient, own_stream, up
from hpcdl.horovod.feedback import Dropped
from hpcdl.horovod.named import Named

NAMES = [f"layer {i}" for i in range(6)]
CODED = NAMES[1]


def start(named, name, array):
    """An operation of another kind for each name."""
    kind = NAMES.index(name) % 6
    if kind == 0:
        return named.allreduce([array], name, "average", postscale=0.5, then=lambda: array)
    if kind == 1:
        return named.allreduce([array], name, "sum", codec="int8", dropped=[Dropped()], then=lambda: array)
    if kind == 2:
        return named.allgather([array[: 100 * (named.world.rank + 1)]], name, then=lambda outs: outs[0])
    if kind == 3:
        return named.broadcast(array, 1, name, then=lambda: array)
    if kind == 4:
        return named.alltoall(array, None, name, then=lambda out, rows: out)
    return named.reducescatter([array], name, "average", then=lambda outs: outs[0])


def inputs(world, step):
    return {name: gradient(world.rank + 10 * step, 400 + 2 * i) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("mode", ["deferred", "eager"], indirect=True)
def test_all_kinds_in_any_order_and_another_stream_at_the_end(ranks, cupy, mode):
    def body(world):
        on_host, on_device = Named(world.group(range(world.size))), Named(world.group(range(world.size)))
        for step in range(2):
            expected = {name: start(on_host, name, x.copy()).wait() for name, x in inputs(world, step).items()}
            with own_stream(cupy, world):
                mine = cupy.cuda.get_current_stream()
                arrays = {name: up(cupy, x) for name, x in inputs(world, step).items()}
                order = random.Random(world.rank + step)
                begun = len(cupy.machine.log)
                requests = {name: start(on_device, name, arrays[name]) for name in order.sample(NAMES, len(NAMES))}
                with cupy.cuda.Stream(non_blocking=True):  # what follows is queued elsewhere, behind the result all the same
                    results = {name: requests[name].wait() + 0 for name in order.sample(NAMES, len(NAMES))}
                    world.barrier()
                    for name in NAMES:
                        found, wanted = results[name].get(), np.asarray(expected[name])
                        assert found.shape == wanted.shape
                        worst = 1 / 64 if name == CODED else 1e-6  # on the host nothing is encoded, and sums are scaled elsewhere
                        assert np.abs(found - wanted).max() <= worst * np.abs(wanted).max(), name
                streams = {
                    r.stream for r in cupy.machine.log[begun:] if r.device == world.rank and r.kind == "kernel" and "progress" in r.thread
                }
                assert streams <= {mine.ptr}, "the progress loop's thread has used a stream of its own"

    ranks(2, body)

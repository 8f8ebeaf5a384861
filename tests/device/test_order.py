"""The order of work: what has no order between streams, threads, copies and the network shows here as poison."""

import time

import numpy as np
import pytest

from device.places import gradient, own_stream, same, up
from hpcdl.errors import InvalidArgument
from hpcdl.transport.staged import Staged
from hpcdl.transport.threads import ThreadHub

pytestmark = pytest.mark.parametrize("mode", ["deferred", "eager"], indirect=True)


@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_the_background_thread_keeps_to_the_stream_of_the_call(ranks, cupy, codec):
    def body(world):
        expected = world.allreduce(gradient(world.rank, 3000), "mean", codec, "ring")
        with own_stream(cupy, world):
            mine = up(cupy, gradient(world.rank, 3000))
            handle = world.allreduce_async(mine, "mean", codec, "ring")
        end = time.monotonic() + 20
        while not handle.finished and time.monotonic() < end:
            time.sleep(1e-3)  # the background thread alone goes on
        assert handle.finished
        streams = {record.stream for record in cupy.machine.log}
        assert 0 not in streams, "something ran on the null stream"
        world.barrier()
        with cupy.cuda.Device(world.rank):
            cupy.cuda.Device(world.rank).synchronize()
            same(mine.get(), expected)

    ranks(2, body)


def test_operations_on_two_streams_at_once(ranks, cupy):
    def body(world):
        expected = [world.allreduce(gradient(world.rank + i, 2000), codec="int8", collective="ring") for i in range(4)]
        with cupy.cuda.Device(world.rank):
            streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(4)]
            arrays, handles = [], []
            for i, stream in enumerate(streams):
                with stream:
                    arrays.append(up(cupy, gradient(world.rank + i, 2000)))
                    handles.append(world.allreduce_async(arrays[-1], codec="int8", collective="ring"))
            for handle in reversed(handles):
                handle.wait()
            for stream, array, wanted in zip(streams, arrays, expected, strict=True):
                with stream:
                    same(array.get(), wanted)

    ranks(2, body)


def test_pinned_memory_is_not_reused_before_the_device_has_read_it(cupy):
    hub = ThreadHub(2)
    sender, receiver = hub.transport(0), Staged(hub.transport(1))
    with cupy.cuda.Stream(non_blocking=True):
        buffers = [cupy.empty(100, "u1") for _ in range(20)]
        for number, buf in enumerate(buffers):
            pending = receiver.irecv(buf, 0, 5)
            sender.isend(np.full(100, number, "u1"), 1, 5)
            assert pending.done()
            del pending
        assert not cupy.machine.waits
        assert [int(buf.get()[0]) for buf in buffers] == list(range(20))


def test_a_staged_send_goes_out_behind_its_event_and_in_order(cupy):
    hub = ThreadHub(2)
    sender, receiver = Staged(hub.transport(0)), hub.transport(1)
    got = [np.zeros(8, "f4") for _ in range(3)]
    receives = [receiver.irecv(buf, 0, 1) for buf in got]
    with cupy.cuda.Stream(non_blocking=True):
        x = cupy.zeros(8, "f4")
        sends = []
        for step in range(2):
            x += 1
            sends.append(sender.isend(x, 1, 1))
            assert sends[step].done() == receives[step].done() == (not cupy.machine.deferred)
        sends.append(sender.isend(np.full(8, 9, "f4"), 1, 1))  # a host buffer may not overtake them
        for _ in range(20):
            if sum(send.done() for send in sends) == len(sends):
                break
    assert [float(buf[0]) for buf in got] == [1, 2, 9]
    assert not cupy.machine.waits


def test_ranks_as_threads_refuse_device_memory(cupy):
    transport = ThreadHub(1).transport(0)
    for call in (transport.isend, transport.irecv):
        with pytest.raises(InvalidArgument, match="Staged"):
            call(cupy.zeros(4), 0, 0)


def test_the_null_stream_and_scratch_memory_of_empty_arrays(ranks, cupy):
    """CuPy's empty arrays have no address: scratch memory must survive one coming back."""

    def body(world):
        with cupy.cuda.Device(world.rank):
            for n in (0, 5, 0, 40):
                for codec in ("fp16", "none"):
                    x = gradient(world.rank, n)
                    mine = up(cupy, x)
                    world.allreduce(mine, codec=codec, collective="ring")
                    same(mine.get(), world.allreduce(x, codec=codec, collective="ring"))

    ranks(2, body)


@pytest.mark.ways("threads")
def test_the_loop_s_own_thread_makes_no_other_device_current(ranks, cupy):
    """To go back to device 0, where it has nothing to do, would cost some 300 MB of memory there, for each rank of a node."""

    def body(world):
        cupy.cuda.Device(world.rank + 1).use()
        for codec in ("none", "fp16"):
            mine = up(cupy, gradient(world.rank, 200_000))
            handle = world.allreduce_async(mine, "mean", codec, "ring")
            while not handle.finished:  # nobody waits, and so the loop's thread goes on with it
                time.sleep(1e-3)
        world.barrier()

    ranks(2, body)
    chosen = {device for thread, device in cupy.machine.chosen if thread.startswith("hpcdl-")}
    assert chosen and chosen <= {1, 2}

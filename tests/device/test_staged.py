"""Through pinned host memory: what crosses the bus, what overlaps, and what is used again."""

import numpy as np
import pytest

from device.conftest import installed
from device.fake_cupy import Machine
from device.places import gradient, own_stream, same, up
from hpcdl.arrays.bus import bus_of
from hpcdl.codecs import by_name
from hpcdl.collectives.layout import DEVICE_PIECE_BYTES
from hpcdl.transport.staged import Staged
from hpcdl.transport.threads import ThreadHub


def moved(cupy, world, kind):
    return sum(record.nbytes for record in cupy.machine.log if record.kind == kind and record.device == world.rank and not record.name)


@pytest.mark.ways("threads")
@pytest.mark.parametrize("codec", ["none", "fp16", "bf16", "int8"])
def test_only_encoded_bytes_cross_the_bus(ranks, cupy, codec):
    """A ring sends and receives each of its chunks once in each of 2(p-1) steps: 2(p-1)/p of the wire of all, either way."""
    n, p = 120_000, 4
    wire = by_name(codec).nbytes(n) if codec != "none" else 4 * n

    def body(world):
        with own_stream(cupy, world):
            mine = up(cupy, gradient(world.rank, n))
            world.allreduce(mine, "mean", codec, "ring")
            world.barrier()
            return moved(cupy, world, "to host"), moved(cupy, world, "to device")

    for down, back in ranks(p, body):
        assert down == pytest.approx(2 * (p - 1) / p * wire, rel=0.02)
        assert back == pytest.approx(2 * (p - 1) / p * wire, rel=0.02)


@pytest.mark.ways("threads")
def test_copies_run_beside_the_stream_of_the_call(ranks, cupy):
    def body(world):
        with own_stream(cupy, world):
            mine = up(cupy, gradient(world.rank, 10_000))
            world.allreduce(mine, "mean", "fp16", "ring")
            world.barrier()
            by_kind = {}
            for record in cupy.machine.log:
                if record.device == world.rank and not (record.kind == "to device" and record.name):
                    by_kind.setdefault(record.kind, set()).add(record.stream)
            return [by_kind[kind] for kind in ("kernel", "to host", "to device")]

    for kernels, down, back in ranks(3, body):
        assert len(down) == len(back) == 1
        assert not kernels & (down | back) and down != back


def pieces_of(cupy, count):
    """`count` pieces of an array, handed to a staged transport whose peer receives none of them."""
    hub = ThreadHub(2)
    sender = Staged(hub.transport(0))
    x = cupy.zeros(count * 1000, "u1")
    return hub, x, [sender.isend(x[i * 1000 : (i + 1) * 1000], 1, 1) for i in range(count)]


def test_the_next_piece_is_copied_while_one_is_on_the_wire(cupy):
    with cupy.cuda.Stream(non_blocking=True):
        hub, _, sends = pieces_of(cupy, 3)
        copies = [record for record in cupy.machine.log if record.kind == "to host"]
        assert len(copies) == 3 and not any(send.done() for send in sends)
        assert not cupy.machine.waits
        receiver, got = hub.transport(1), np.ones(1000, "u1")
        receives = [receiver.irecv(got, 0, 1) for _ in range(3)]
        for _ in range(30):
            if sum(send.done() for send in sends) == 3:
                break
        assert all(receive.done() for receive in receives) and not got.any()


def test_what_is_computed_later_does_not_wait_for_the_copy(cupy):
    """The copy waits for what makes its bytes; the stream of the call does not wait for the copy."""
    with cupy.cuda.Stream(non_blocking=True) as stream:
        pieces_of(cupy, 1)
        after = cupy.zeros(4, "f4") + 1
        assert (after.get() == 1).all()
        copy = next(record for record in cupy.machine.log if record.kind == "to host" and record.nbytes == 1000)
        queue = cupy.machine.queue(copy.device, copy.stream)
        assert copy.stream != stream.ptr
        if cupy.machine.deferred:
            assert queue.done < queue.submitted, "the stream has pulled the copy along"


@pytest.mark.ways("threads")
def test_pinned_memory_is_used_again(ranks, cupy):
    def body(world):
        from hpcdl.arrays.device import DEVICE

        with own_stream(cupy, world):
            for _ in range(5):
                world.allreduce(up(cupy, gradient(world.rank, 50_000)), "mean", "fp16", "ring")
            world.barrier()
            before = bus_of(DEVICE).made
            world.barrier()
            for step in range(20):
                x = gradient(world.rank + step, 50_000)
                mine = up(cupy, x)
                world.allreduce(mine, "mean", "fp16", "ring")
                same(mine.get(), world.allreduce(x, "mean", "fp16", "ring"))
            world.barrier()
            return bus_of(DEVICE).made - before

    assert max(ranks(2, body)) <= 4  # two ranks share the pool here, and may need some more at once than before


def test_a_buffer_is_not_taken_while_the_device_reads_it(cupy):
    from hpcdl.arrays.device import DEVICE

    bus = bus_of(DEVICE)
    with cupy.cuda.Stream(non_blocking=True):
        targets = [cupy.empty(600, "u1") for _ in range(8)]
        for number, target in enumerate(targets):
            host = bus.take(600)
            host[:] = number
            bus.to_device(host, target)
        assert [int(target.get()[0]) for target in targets] == list(range(8))
        assert not [wait for wait in cupy.machine.waits if not wait.startswith("get (")]


def test_a_send_that_is_given_up_keeps_its_memory_until_the_copy_is_done(cupy):
    from hpcdl.arrays.device import DEVICE

    bus = bus_of(DEVICE)
    with cupy.cuda.Stream(non_blocking=True):
        host = bus.take(600)
        event = bus.to_host(cupy.full(600, 7, "u1"), host)
        del host
        others = [bus.take(600) for _ in range(4)]
        for other in others:
            other[:] = 1
        while not event.done():
            pass
        assert all((other == 1).all() for other in others)


@pytest.mark.ways("threads")
@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_pieces_on_devices_are_large_also_between_nodes(ranks, cupy, monkeypatch, codec):
    """48 KiB between nodes is for arrays on the host; `auto` takes what suits a device."""
    monkeypatch.setattr("harness.in_threads.make_hub", lambda n: ThreadHub(n, nodes=n))
    n = 2 * DEVICE_PIECE_BYTES // 4  # a chunk of two ranks is one piece

    def body(world):
        with own_stream(cupy, world):
            mine = up(cupy, gradient(world.rank, n))
            world.allreduce(mine, "mean", codec)
            world.barrier()
            mine.get()
            return max(record.nbytes for record in cupy.machine.log if record.kind == "to host" and record.name == "" and record.stream)

    piece = DEVICE_PIECE_BYTES if codec == "none" else DEVICE_PIECE_BYTES // 2
    assert min(ranks(2, body)) >= piece


def test_no_fence_no_order(cupy):
    """The double shows what the events are for: without them, a copy on another stream reads poison."""
    with installed(Machine()) as module:
        one, other = module.cuda.Stream(non_blocking=True), module.cuda.Stream(non_blocking=True)
        with one:
            x = module.full(64, 3, "u1")
        assert (x.get(stream=other) != 3).all()


@pytest.mark.parametrize("direction", ["down", "up"])
def test_copies_of_one_stream_do_not_wait_for_another_stream_s_work(cupy, direction):
    """Two buckets under way: what the later one still waits for, its gradients, must not hold up the copies of the earlier one."""
    from hpcdl.arrays.device import DEVICE

    bus, streams = DEVICE.bus, [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    arrays = []
    for stream in streams:
        with stream:
            arrays.append(cupy.zeros(1000, "u1"))
            stream.synchronize()
    late = cupy.machine.queue(0, streams[0].ptr)
    before = late.done
    with streams[0]:
        arrays[0] += 1  # is not there for long
    ends = []
    for stream, x in zip(streams, arrays, strict=True):
        with stream:
            host = bus.take(1000)
            if direction == "down":
                ends.append(bus.to_host(x, host))
            else:
                bus.to_device(host, x)
                ends.append(DEVICE.event())
    while not ends[1].done():
        pass
    assert late.done == before, "the copy has waited for the other stream"

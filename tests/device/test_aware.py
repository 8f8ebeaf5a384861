"""A GPU-aware network: it reads and writes device memory at once, so whatever is handed over too early is poison."""

import numpy as np
import pytest

from device.addresses import Addressed
from device.places import gradient, own_stream, same, up
from hpcdl.codecs import codecs
from hpcdl.collectives.devices import DevicePath
from hpcdl.transport.aware import Aware
from hpcdl.transport.metered import Metered
from hpcdl.transport.threads import ThreadHub

AWARE = DevicePath("aware", aware=True)


def aware(world):
    """Two worlds of the same ranks: one that hands addresses to the network, and one that does not."""
    here, other = world.group(range(world.size)), world.group(range(world.size))
    group = here._group
    if not group.transport.direct:
        group.transport = Metered(Addressed(group.transport))
    group.devices._transport = group.transport
    group.devices.follow(AWARE)
    assert isinstance(group.carrier(None), Aware)
    return here, other


@pytest.mark.parametrize("mode", ["deferred", "eager"], indirect=True)
@pytest.mark.parametrize("codec", codecs.names())
@pytest.mark.parametrize("collective", ["ring", "halving-doubling", "tree", "direct"])
def test_all_reduce(ranks, cupy, collective, codec):
    def body(world):
        here, other = aware(world)
        for n in (0, 1, 1000, 70_000):
            x = gradient(world.rank, n)
            expected = other.allreduce(x.copy(), "mean", codec, collective)
            with own_stream(cupy, world):
                mine = up(cupy, x)
                here.allreduce(mine, "mean", codec, collective)
                same(mine.get(), expected)
            assert all(wait.startswith("get (") for wait in cupy.machine.waits), "somebody has waited for the device but the test"

    ranks(3, body)


def test_nothing_is_copied_to_the_host(ranks, cupy):
    def body(world):
        here, _ = aware(world)
        with own_stream(cupy, world):
            mine = cupy.full(5000, world.rank + 1, "f4")
            here.allreduce(mine, collective="ring")
            assert not [record for record in cupy.machine.log if record.kind == "to host"]
            world.barrier()
            assert mine.get()[4321] == 3

    ranks(2, body)


def test_it_moves_what_is_not_reduced(ranks, cupy):
    def body(world):
        here, _ = aware(world)
        with own_stream(cupy, world):
            x = cupy.full(1000, world.rank, "f4")
            assert here.broadcast(x, root=2).get()[5] == 2
            gathered = here.allgather(cupy.full(3, world.rank, "i4")).get()
            assert gathered.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
            assert here.alltoall(cupy.full(3, world.rank, "i4")).get().tolist() == [0, 1, 2]

    ranks(3, body)


@pytest.mark.parametrize("codec", codecs.names())
def test_with_a_rank_on_the_host_and_a_rank_that_is_staged(ranks, cupy, codec):
    """The wire is the same: what a rank does with it is its own affair."""

    def body(world):
        here, other = aware(world)
        x = gradient(world.rank, 3000)
        expected = other.allreduce(x.copy(), "mean", codec, "ring")
        if world.rank == 1:
            here._group.devices.follow(DevicePath("staged"))
        if world.rank == 0:
            same(here.allreduce(x, "mean", codec, "ring"), expected)
            return
        with own_stream(cupy, world):
            same(here.allreduce(up(cupy, x), "mean", codec, "ring").get(), expected)

    ranks(3, body)


def ends(size=2):
    hub = ThreadHub(size)
    return [Aware(Addressed(hub.transport(rank))) for rank in range(size)]


def test_a_send_waits_for_what_makes_its_bytes_and_keeps_its_place(cupy):
    sender, receiver = ends()
    got = [np.zeros(8, "f4") for _ in range(3)]
    receives = [receiver.irecv(buf, 0, 1) for buf in got]
    with cupy.cuda.Stream(non_blocking=True):
        x = cupy.zeros(8, "f4")
        y = x + 1
        sends = [sender.isend(y, 1, 1)]
        assert not receives[0].done()
        sends += [sender.isend(np.full(8, 9, "f4"), 1, 1), sender.isend(y + 1, 1, 1)]
        for _ in range(20):
            if sum(send.done() for send in sends) == len(sends):
                break
    assert [receive.done() for receive in receives] == [True] * 3
    assert [float(buf[0]) for buf in got] == [1, 9, 2]
    assert not cupy.machine.waits


def test_a_receive_waits_for_what_still_reads_its_memory(cupy):
    sender, receiver = ends()
    with cupy.cuda.Stream(non_blocking=True):
        landing = cupy.full(8, 5, "f4")
        before = landing + 0  # reads it, later
        receive = receiver.irecv(landing, 0, 1)
        sender.isend(np.full(8, 7, "f4"), 1, 1)
        while not receive.done():
            pass
        assert receive.nbytes == 32 and receive.source == 0
        after = landing + 0
        assert not cupy.machine.waits
        assert (before.get() == 5).all() and (after.get() == 7).all()


def test_messages_that_are_given_up_hold_nobody_back(cupy):
    sender, receiver = ends()
    with cupy.cuda.Stream(non_blocking=True):
        first = sender.isend(cupy.zeros(8, "f4") + 1, 1, 1)
        second = sender.isend(cupy.zeros(8, "f4") + 2, 1, 1)
        first.cancel()
        got = np.zeros(8, "f4")
        receive = receiver.irecv(got, 0, 1)
        for _ in range(20):
            second.done()
    assert receive.done() and got[0] == 2

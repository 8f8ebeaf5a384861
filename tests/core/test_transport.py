"""Messages: counted, in order, and refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdl.codecs import by_name, codecs
from hpcdl.transport.base import Placement, Truncated
from hpcdl.transport.metered import Metered
from hpcdl.transport.subset import Subset
from hpcdl.transport.threads import ThreadHub

HEADER = 16  # bytes that an operation sends to each peer ahead of all else


@pytest.mark.parametrize("codec", list(codecs))
@pytest.mark.parametrize("n", [2, 3, 4])
def test_bytes_on_the_wire_are_the_formula(ranks, n, codec) -> None:
    def body(world) -> None:
        chunk = 128 * 50
        before = world.bytes_sent
        world.allreduce(np.ones(n * chunk, np.float32), codec=codec, collective="ring")
        assert world.bytes_sent - before == 2 * (n - 1) * by_name(codec).nbytes(chunk) + HEADER

    ranks(n, body)


def test_messages_keep_their_order_and_wait_for_their_receiver() -> None:
    hub = ThreadHub(2)
    a, b = hub.transport(0), hub.transport(1)
    first, second = (a.isend(np.full(4, value, np.uint8), 1, tag=5) for value in (1, 2))
    assert not first.done() and not second.done()
    inbox = np.zeros((2, 4), np.uint8)
    one = b.irecv(inbox[0], None, tag=5)
    assert one.done() and (one.source, one.nbytes) == (0, 4) and first.done() and not second.done()
    assert b.irecv(inbox[1], 0, tag=5).done()
    assert inbox[:, 0].tolist() == [1, 2]


def test_tags_and_groups_are_apart() -> None:
    hub = ThreadHub(3)
    worlds = [hub.transport(rank) for rank in range(3)]
    inner = [worlds[rank].group((2, 0), tag=9) for rank in (2, 0)]
    assert [(t.rank, t.size, t.ranks) for t in inner] == [(0, 2, (2, 0)), (1, 2, (2, 0))]
    worlds[2].isend(np.ones(1, np.uint8), 0, tag=1)
    assert not inner[1].irecv(np.zeros(1, np.uint8), None, tag=1).done()
    assert not worlds[0].irecv(np.zeros(1, np.uint8), None, tag=2).done()
    assert worlds[0].irecv(np.zeros(1, np.uint8), None, tag=1).done()


def test_a_message_too_long_and_a_cancelled_receive() -> None:
    hub = ThreadHub(2)
    a, b = hub.transport(0), hub.transport(1)
    given_up = b.irecv(np.zeros(2, np.uint8), 0, tag=0)
    given_up.cancel()
    a.isend(np.zeros(9, np.uint8), 1, tag=0)
    assert not given_up.done()
    with pytest.raises(Truncated, match="9 bytes came where 2 were expected"):
        b.irecv(np.zeros(2, np.uint8), 0, tag=0).done()


def test_metered_counts_and_subset_renumbers() -> None:
    hub = ThreadHub(4)
    metered = Metered(hub.transport(3))
    pair = Subset(metered, (1, 3))
    assert (pair.rank, pair.size, pair.ranks) == (1, 2, (1, 3))
    pair.isend(np.zeros(10, np.float32), 0, tag=0)
    assert (metered.traffic.bytes_sent, metered.traffic.messages_sent) == (40, 1)
    assert hub.transport(1).irecv(np.zeros(40, np.uint8), 3, tag=0).done()


def test_nodes_of_unequal_size() -> None:
    hub = ThreadHub(5, nodes=2)
    places = [Placement.of(rank, hub.transport(rank).nodes) for rank in range(5)]
    assert [(p.node, p.local_rank, p.local_size, p.nodes) for p in places] == [
        (0, 0, 3, 2),
        (0, 1, 3, 2),
        (0, 2, 3, 2),
        (1, 0, 2, 2),
        (1, 1, 2, 2),
    ]

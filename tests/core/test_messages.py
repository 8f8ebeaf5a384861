"""Messages beside collectives: any size, tags, any source; what is wrong ends in an error."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdl.collectives import moves
from hpcdl.collectives.messages import Messages
from hpcdl.errors import InvalidArgument, Mismatch, PeerLost


def office(world):
    return Messages(world.new_group("messages", messages_only=True))


@pytest.mark.parametrize("nbytes", [0, 1, 16 << 10, (16 << 10) + 1, 9_000_001])
@pytest.mark.parametrize("any_source", [False, True])
def test_ring_of_messages(ranks, nbytes, any_source) -> None:
    def body(world) -> None:
        messages, left = office(world), (world.rank - 1) % world.size
        mine, got = np.full(nbytes, world.rank, np.uint8), np.zeros(nbytes, np.uint8)
        coming = messages.receive(got, None if any_source else left, 3)
        going = messages.send(mine, (world.rank + 1) % world.size, 3)
        assert coming.wait() == left and (got == left).all()
        going.wait()

    ranks(3, body)


def test_order_within_a_tag_and_none_between_tags(ranks) -> None:
    def body(world) -> None:
        messages, sizes = office(world), [5, 100_000, 7, 20_000, 0, 300_000]
        if world.rank == 0:
            for operation in [messages.send(np.full(n, k, np.uint8), 1, k % 2) for k, n in enumerate(sizes)]:
                operation.wait()
        else:
            gots = {k: np.zeros(n, np.uint8) for k, n in enumerate(sizes)}
            under_way = [messages.receive(gots[k], 0, k % 2) for k in (1, 3, 0, 5, 2, 4)]
            for operation in reversed(under_way):
                operation.wait()
            assert all((got == k).all() for k, got in gots.items())

    ranks(2, body)


def test_not_behind_a_collective(ranks) -> None:
    def body(world) -> None:
        messages, group = office(world), world.new_group("collectives")
        got = np.zeros(50_000, np.uint8)
        if world.rank == 0:
            waiting = moves.barrier(group)
            messages.receive(got, 1).wait()
            assert not waiting.done()
            messages.send(got, 1).wait()
            waiting.wait()
        else:
            messages.send(np.ones(50_000, np.uint8), 0).wait()
            messages.receive(got, 0).wait()
            moves.barrier(group).wait()
        assert (got == 1).all()

    ranks(2, body)


def test_another_length(ranks) -> None:
    def body(world) -> str:
        messages = office(world)
        with pytest.raises(Mismatch, match=r"rank 0 sent 40000 bytes with tag 2 where rank 1 expects 50000") as caught:
            if world.rank == 0:
                messages.send(np.ones(40_000, np.uint8), 1, 2)
                messages.receive(np.ones(1, np.uint8), 1, 5).wait()  # never comes
            else:
                messages.receive(np.ones(50_000, np.uint8), 0, 2).wait()
        return str(caught.value)

    texts = ranks(2, body)
    assert texts is None or len(set(texts)) == 1


def test_a_rank_that_has_left(ranks) -> None:
    """What it sent before still comes; what it did not send never will."""

    def body(world) -> None:
        group = world.new_group("messages", messages_only=True)
        messages, got = Messages(group), np.zeros(100_000, np.uint8)
        if world.rank == 0:
            going = messages.send(np.ones(100_000, np.uint8), 1)
            group.leave()
            going.wait()
        else:
            messages.receive(got, 0).wait()
            assert (got == 1).all()
            with pytest.raises(PeerLost, match="rank 0 ended without it"):
                messages.receive(got, 0).wait()

    ranks(2, body)


def test_arguments(ranks) -> None:
    def body(world) -> None:
        messages, x = office(world), np.ones(1, np.uint8)
        for call, told in (
            (lambda: messages.send(x, world.rank), "and not this one"),
            (lambda: messages.send(x, 2), "must be 0 to 1"),
            (lambda: messages.receive(x, 1 - world.rank, -1), "a tag must be"),
        ):
            with pytest.raises(InvalidArgument, match=told):
                call()

    ranks(2, body)

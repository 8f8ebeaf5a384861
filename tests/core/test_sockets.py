"""The transport over TCP, for processes that MPI has not started: here threads, which know nothing of each other but the connections."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest

from hpcdl.errors import CommunicationError, LaunchError, Mismatch
from hpcdl.transport import sockets
from hpcdl.transport.base import TransportFailure, Truncated
from hpcdl.transport.sockets import connect
from hpcdl.world import World


def together(size: int, body: Any, beside: Any = None) -> list[Any]:
    """`body(transport)` on each of `size` ranks; the results, or the first error. beside: called with the port of each rank."""
    texts, meeting = [""] * size, threading.Barrier(size)
    results: list[Any] = [None] * size

    def one(rank: int) -> None:
        def exchange(text: str) -> list[str]:
            texts[rank] = text
            if beside is not None:
                beside(int(text.split()[1]))
            meeting.wait(30)
            return list(texts)

        try:
            results[rank] = body(connect(rank, size, exchange))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    assert not any(thread.is_alive() for thread in threads)
    return results


class Strays:
    """Whoever connects to a rank beside its peers: one leaves at once, one says something else, one half, one nothing."""

    def __init__(self, port: int) -> None:
        self.wires = [socket.create_connection(("localhost", port)) for _ in range(4)]
        self.wires[0].close()
        self.wires[1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.wires[2].sendall(b"half")

    def close(self) -> None:
        for wire in self.wires:
            wire.close()


def until(*pending: Any) -> None:
    while not all(one.done() for one in pending):
        pass


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_world(size) -> None:
    def body(transport) -> bytes:
        world = World(transport, timeout=30)
        assert (world.rank, world.size, world.nodes) == (transport.rank, size, 1)
        for n in (0, 1, 1000, 1_000_000):
            x = np.full(n, world.rank + 1, np.float32)
            assert (world.allreduce(x) == size * (size + 1) / 2).all()
            assert len(world.allgather(x)) == n * size
        x = world.broadcast(np.full(300_000, world.rank), size - 1)
        assert (x == size - 1).all()
        pair = world.split(world.rank // 2)
        assert pair.allreduce(np.array([world.rank])).tolist() == [sum(pair.ranks)]
        random = np.random.default_rng(world.rank).normal(size=10_000).astype("float32")
        result = world.allreduce(random, "mean", codec="int8").tobytes()
        world.close()
        return result

    assert len(set(together(size, body))) == 1, "replicas differ"


def test_messages_in_order_early_and_late() -> None:
    def body(transport) -> None:
        other, n = 1 - transport.rank, 200_000
        outs = [np.full(n + k, k, np.uint8) for k in range(6)]
        ins = [np.zeros(n + k, np.uint8) for k in range(6)]
        sends = [transport.isend(out, other, k % 2) for k, out in enumerate(outs)]
        early = [transport.irecv(ins[k], other, k % 2) for k in (1, 3, 5)]
        until(*early)
        until(*[transport.irecv(ins[k], None, 0) for k in (0, 2, 4)], *sends)
        assert all((got == k).all() for k, got in enumerate(ins))
        left = transport.group((1, 0), 7)
        got = np.zeros(3, np.uint8)
        receive = left.irecv(got, 1 - left.rank, 0)
        until(left.isend(np.full(3, left.rank, np.uint8), 1 - left.rank, 0), receive)
        assert (got == 1 - left.rank).all() and (receive.source, receive.nbytes) == (1 - left.rank, 3)

    together(2, body)


def test_nothing_is_kept_of_what_has_ended() -> None:
    def body(transport) -> None:
        world = World(transport, timeout=30)
        kept = []
        for _ in range(2):
            for _ in range(50):
                world.allreduce(np.ones(10, np.float32))
                world.barrier()
            kept.append(len(transport._switch._early) + len(transport._switch._wanted))
        assert max(kept) < 20, kept
        world.close()

    together(2, body)


def test_strangers_at_the_door() -> None:
    strays: list[Strays] = []
    try:
        assert together(
            3, lambda transport: World(transport, timeout=30).allreduce(np.ones(3)).tolist(), lambda port: strays.append(Strays(port))
        )
    finally:
        for stray in strays:
            stray.close()


def test_a_rank_that_never_comes(monkeypatch) -> None:
    monkeypatch.setattr(sockets, "_PATIENCE", 0.5)
    with pytest.raises(LaunchError, match=r"rank 0 of 3: no connection from ranks \[1, 2\] within 0.5 s"):
        connect(0, 3, lambda text: [text] * 3)


def test_too_long_and_gone() -> None:
    def body(transport) -> None:
        if transport.rank == 0:
            until(transport.isend(np.zeros(10, np.uint8), 1, 0))
            for line in transport._switch._lines.values():
                line.wire.close()
            return
        receive = transport.irecv(np.zeros(5, np.uint8), 0, 0)
        with pytest.raises(Truncated, match="10 bytes came where 5 were expected"):
            until(receive)
        with pytest.raises(TransportFailure, match="the connection to rank 0 has ended"):
            until(transport.irecv(np.zeros(5, np.uint8), 0, 0))

    together(2, body)


def test_ranks_that_disagree() -> None:
    def body(transport) -> str:
        world = World(transport, timeout=30)
        with pytest.raises(CommunicationError) as caught:
            world.allreduce(np.ones(5 + (world.rank == 2)), name="x")
            world.barrier()
        assert isinstance(caught.value, Mismatch)
        return str(caught.value)

    assert len(set(together(3, body))) == 1

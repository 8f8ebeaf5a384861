"""Ranks that want different things, that are late, that are gone: the same error on every rank, and nobody hangs."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from hpcdl.errors import CommunicationError, Mismatch, PeerLost, Stalled
from hpcdl.horovod.errors import Disagreed, HorovodInternalError
from hpcdl.horovod.named import Named


def odd(world) -> bool:
    return world.rank == world.size - 1


DISAGREEMENTS = {
    "shape": lambda n, o: n.allreduce([np.ones(3 if o else 2)], "x"),
    "shape of the same size": lambda n, o: n.allreduce([np.ones((3, 2) if o else (2, 3))], "x"),
    "dtype": lambda n, o: n.allreduce([np.ones(3, np.float32 if o else np.float64)], "x"),
    "op": lambda n, o: n.allreduce([np.ones(3)], "x", "min" if o else "sum"),
    "scale": lambda n, o: n.allreduce([np.ones(3)], "x", "sum", 2.0 if o else 1.0),
    "codec": lambda n, o: n.allreduce([np.ones(3)], "x", "sum", codec="fp16" if o else "none"),
    "root": lambda n, o: n.broadcast(np.ones(3), 1 if o else 0, "x"),
    "kind": lambda n, o: n.broadcast(np.ones(3), 0, "x") if o else n.allreduce([np.ones(3)], "x"),
    "number in a group": lambda n, o: n.allreduce([np.ones(3)] * (2 if o else 3), "x", grouped=True),
    "row": lambda n, o: n.allgather([np.ones((2, 3 if o else 4))], "x"),
    "row of all-to-all": lambda n, o: n.alltoall(np.ones((12, 3 if o else 4)), None, "x"),
}


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("what", DISAGREEMENTS.values(), ids=DISAGREEMENTS.keys())
def test_ranks_that_disagree(ranks, n, what) -> None:
    def body(world) -> str:
        named, before, after = Named(world), np.ones(4), np.ones(4)
        first = named.allreduce([before], "before", "sum")
        with pytest.raises(Disagreed) as found:
            what(named, odd(world)).wait()
        assert isinstance(found.value, HorovodInternalError) and isinstance(found.value, Mismatch)
        first.wait()
        named.allreduce([after], "x", "sum").wait()  # the name may be used again
        assert before[0] == after[0] == n
        return str(found.value)

    texts = ranks(n, body)
    if texts is not None:
        assert len(set(texts)) == 1
        assert "'x'" in texts[0] and f"; rank {n - 1}: " in texts[0] and "cure:" in texts[0], texts[0]


def test_what_join_does_not_stand_for(ranks) -> None:
    def body(world) -> None:
        named = Named(world)
        if world.rank == 0:
            named.join().wait()
            return
        for call in (lambda: named.allgather([np.ones(2)], "g"), lambda: named.broadcast(np.ones(2), 1, "b")):
            with pytest.raises(HorovodInternalError, match="not supported with join at this time: rank 0 joined"):
                call().wait()
        named.join().wait()

    ranks(3, body)


@pytest.mark.parametrize("before", [0, 2])
def test_a_rank_that_does_not_come(ranks, monkeypatch, caplog, before) -> None:
    """First a warning on rank 0, then an error on all that names the tensor and who is where; also where they have met there before."""
    monkeypatch.setenv("HOROVOD_STALL_CHECK_TIME_SECONDS", "0.5")
    monkeypatch.setenv("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "4")

    def body(world) -> str:
        named = Named(world.group(range(world.size)))
        for _ in range(before):
            named.allreduce([np.ones(2)], "layer").wait()
        try:
            if odd(world):
                named.allreduce([np.ones(2)], "another").wait()
            else:
                named.allreduce([np.ones(2)], "layer").wait()
        except HorovodInternalError as error:
            assert isinstance(error, Stalled)
            return str(error)
        raise AssertionError("no error")

    with caplog.at_level(logging.WARNING, "hpcdl.horovod"):
        texts = ranks(3, body)
    if texts is not None:
        assert len(set(texts)) == 1 and "'layer'" in texts[0] and "'another'" in texts[0], texts
    warnings = [record.message for record in caplog.records if record.name == "hpcdl.horovod"]
    if warnings:  # on rank 0's process only
        assert any("'layer'" in text and "ranks 0-1 ready, waiting for rank 2" in text for text in warnings), warnings


@pytest.mark.parametrize(("who", "before"), [(0, 0), (2, 0), (0, 2), (2, 2)])
def test_a_rank_that_leaves(ranks, who, before) -> None:
    """It ends without having taken part."""

    def body(world) -> str:
        inner = world.group(range(world.size))
        named = Named(inner)
        named.barrier().wait()
        for _ in range(before):
            named.allreduce([np.ones(2)], "layer").wait()
        if world.rank == who:
            named.table.leave()
            return ""
        with pytest.raises(CommunicationError) as found:
            named.allreduce([np.ones(2)], "layer").wait()
        assert isinstance(found.value, PeerLost) and isinstance(found.value, HorovodInternalError)
        return str(found.value)

    texts = ranks(3, body)
    if texts is not None:
        told = {text for text in texts if text}
        assert len(told) == 1 and f"rank {who}" in told.pop()


def test_a_rank_that_raises(ranks) -> None:
    def body(world) -> str:
        named = Named(world.group(range(world.size)))
        if odd(world):
            named.barrier().wait()
            named.table.leave(ValueError("a bad sample"))
            return ""
        with pytest.raises(HorovodInternalError, match="ValueError: a bad sample") as found:
            named.barrier().wait()  # which it may be that the odd one alone has seen the end of
            named.allreduce([np.ones(2)], "layer").wait()
        assert isinstance(found.value, PeerLost)
        return str(found.value)

    ranks(3, body)

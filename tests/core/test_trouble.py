"""Law 7: where ranks disagree or one is gone, every rank gets the same error that names who does what; nobody hangs."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest

import hpcdl
from hpcdl.collectives.control import Entry, State
from hpcdl.collectives.operation import Operation
from hpcdl.collectives.verdict import judge
from hpcdl.errors import CommunicationError, InvalidArgument, Mismatch, PeerLost, Stalled


def odd(world) -> bool:
    return world.rank == world.size - 1


DISAGREEMENTS = {
    "shape": lambda w: w.allreduce(np.ones(6 if odd(w) else 5)),
    "shape of the same size": lambda w: w.allreduce(np.ones((2, 3) if odd(w) else (3, 2))),
    "a large shape beside a small one": lambda w: w.allreduce(np.ones(500_000 if odd(w) else 5)),
    "nothing beside something": lambda w: w.allreduce(np.ones(0 if odd(w) else 5)),
    "dtype": lambda w: w.allreduce(np.ones(5, np.float32 if odd(w) else np.int32)),
    "op": lambda w: w.allreduce(np.ones(5), op="max" if odd(w) else "min"),
    "codec": lambda w: w.allreduce(np.ones(5000), codec="fp16" if odd(w) else "bf16"),
    "collective": lambda w: w.allreduce(np.ones(5000), collective="ring" if odd(w) else "direct"),
    "native beside a schedule": lambda w: w.allreduce(np.ones(5000), collective="native" if odd(w) else "ring"),
    "weight": lambda w: w.allreduce(np.ones(5), op="mean", weight=2.0 if odd(w) else None),
    "error feedback": lambda w: w.allreduce(np.ones(5), codec="int8", error_feedback=np.zeros(5) if odd(w) else None),
    "root": lambda w: w.broadcast(np.ones(5), root=1 if odd(w) else 0),
    "kind": lambda w: w.barrier() if odd(w) else w.allreduce(np.ones(5)),
    "row length": lambda w: w.allgather(np.ones((2, 3 if odd(w) else 4))),
    "alltoall": lambda w: w.alltoall(np.ones(8 if odd(w) else 9)),
    "order": lambda w: [f() for f in ([w.barrier, lambda: w.allreduce(np.ones(9))][:: -1 if odd(w) else 1])],
}


@pytest.mark.parametrize("what", DISAGREEMENTS.values(), ids=DISAGREEMENTS.keys())
@pytest.mark.parametrize("n", [2, 4])
def test_ranks_that_disagree(ranks, n, what) -> None:
    def body(world) -> str:
        try:
            what(world)
            world.barrier()  # a rank that was through already hears of it in its next operation
        except CommunicationError as error:
            assert isinstance(error, Mismatch)
            assert world.broken
            with pytest.raises(Mismatch):  # and the world stays unusable
                world.barrier()
            return str(error)
        raise AssertionError("no error")

    texts = ranks(n, body)
    if texts is not None:
        assert len(set(texts)) == 1, texts
        assert f"rank {n - 1}" in texts[0] and "cure:" in texts[0]


def test_a_disagreement_in_the_last_operation(ranks) -> None:
    """Two roots: both send, both are through. It shows when they compare their histories at the end."""

    def body(world) -> None:
        inner = world.group(range(world.size))
        with contextlib.suppress(Mismatch):  # over MPI the sends are buffered and end well; between threads they are not
            inner.broadcast(np.ones(5), root=1 if odd(world) else 0)
        inner.close()
        assert inner.broken

    ranks(2, body)


def test_members_that_disagree(ranks) -> None:
    """Nobody sends anything here, so it takes the time-out to find out."""

    def body(world) -> None:
        world._group.timeout = 3.0
        with pytest.raises(Mismatch, match=r"rank 0: group\(members \[1, 0\]\); rank 1: group\(members \[0, 1\]\)"):
            world.group([0, 1] if odd(world) else [1, 0])

    ranks(2, body)


def test_a_tensor_is_named(ranks) -> None:
    def body(world) -> None:
        with pytest.raises(Mismatch, match=r"rank 1: allreduce\(sum, float64 of shape 3×2, .*named 'conv1.weight'"):
            world.allreduce(np.ones((3, 2) if odd(world) else (2, 3)), name="conv1.weight")

    ranks(2, body)


def test_a_rank_that_ends_early(ranks) -> None:
    def body(world) -> str:
        if odd(world):
            world.close()
            return ""
        # One of the two may not have begun when the other asks.
        with pytest.raises(PeerLost, match=r"rank 2 of 3 ended already; meanwhile .*ranks? (0-1|0|1) in operation 0, allreduce") as caught:
            world.allreduce(np.ones(5))
        return str(caught.value)

    ranks(3, body)


def test_a_rank_that_raises(ranks) -> None:
    def body(world) -> None:
        if odd(world):
            world.close(ValueError("loss is NaN"))  # what the end of a program does
            return
        with pytest.raises(PeerLost, match="rank 2 of 3 raised ValueError: loss is NaN"):
            world.allreduce(np.ones(5))
        with pytest.raises(PeerLost):
            world.allreduce_async(np.ones(5))

    ranks(3, body)


def test_ranks_that_are_alive_are_waited_for_at_the_end(ranks) -> None:
    def body(world) -> None:
        inner = world.group(range(world.size))
        inner._group.timeout = 0.5
        if odd(world):
            time.sleep(3)  # in user code, where the background thread answers
        inner.close()
        assert not inner.broken

    ranks(3, body)


@pytest.mark.ways("threads")
def test_a_question_to_a_rank_that_has_just_left(ranks) -> None:
    """Nobody reads it any more, so nobody may wait until it is read."""

    def body(world) -> None:
        inner = world.group(range(world.size))
        if world.rank == 0:
            inner._group.leave()
        else:
            inner.close()
        world.barrier()
        if world.rank == 0:
            inner._group._control.post("alive?", inner._group._state())
            inner.close()
        world.barrier()

    ranks(2, body)


@pytest.mark.ways("threads")
def test_ranks_that_are_dead_are_not_waited_for_at_the_end(ranks) -> None:
    def body(world) -> None:
        inner = world.group(range(world.size))
        inner._group.timeout = 0.5
        if odd(world):
            inner._group.engine.remove_group(inner._group)  # deaf and dumb from now on
            time.sleep(8)
        else:
            inner.close()
            assert inner.broken
            with pytest.raises(PeerLost, match=r"no answer for 0.5 s from rank 2, which never ended"):
                inner.barrier()

    ranks(3, body)


def test_communicators_are_given_back(ranks) -> None:
    """An MPI library has about 2,000 of them; each group takes four, two of them for its shared memory."""

    def body(world) -> None:
        for _ in range(600):
            inner = world.group(range(world.size))
            inner.close()
        for _ in range(10):
            reducer = hpcdl.Reducer(world, [(3,)])
            reducer.close()

    ranks(2, body)


@pytest.mark.parametrize("collective", ["ring", "halving-doubling", "tree", "direct"])
def test_lengths_far_apart_never_write_beyond_a_buffer(ranks, collective) -> None:
    """Open MPI 5 writes a longer message whole into a shorter receive of the same node; so none may ever meet one."""

    def body(world) -> None:
        for codec in ("none", "fp16"):
            inner = world.group(range(world.size))
            with pytest.raises(Mismatch):
                inner.allreduce(np.ones(1_000_000 if world.rank == 1 else 200_000, np.float32), collective=collective, codec=codec)
            assert (world.allreduce(np.ones(100_000)) == 4).all()

    ranks(4, body)


def test_long_names_fit_into_the_control_lane(ranks) -> None:
    def body(world) -> str:
        name = "名" * 500
        for i in range(20):
            world.allreduce(np.ones(1), name=f"{name}{i}")
        with pytest.raises(Mismatch, match="operation 20") as caught:
            for handle in [world.allreduce_async(np.ones(2 + odd(world)), name=f"{name}{i}") for i in range(30)]:
                handle.wait()
        return str(caught.value)

    texts = ranks(3, body)
    assert texts is None or len(set(texts)) == 1


def test_groups_made_before_do_not_confuse_the_verdict(ranks) -> None:
    def body(world) -> None:
        assert world.split(world.rank % 2) is not None
        with pytest.raises(Mismatch, match=r"rank 3: allreduce\(sum, float64 of shape 4"):
            world.allreduce(np.ones(3 + odd(world)))

    ranks(4, body)


def test_a_rank_that_ended_is_noticed_where_groups_are_made(ranks) -> None:
    def body(world) -> None:
        if odd(world):
            world.close()
            return
        with pytest.raises(PeerLost, match="rank 2 of 3 ended already"):
            hpcdl.Reducer(world, [(4,)])

    ranks(3, body)


@pytest.mark.ways("threads")
def test_a_rank_that_ended_after_it_made_a_group_is_not_missed_there(ranks, monkeypatch) -> None:
    advance = Operation.advance

    def late(operation: Operation) -> bool:
        """Rank 1 hears that rank 0 has ended before it reads what rank 0 sent."""
        group = operation.group
        begun = operation._waits_for is not None
        if operation.signature.kind == "group" and group.transport.rank == 1 and begun and not group.departed:
            return False
        return advance(operation)

    monkeypatch.setattr(Operation, "advance", late)
    ranks(2, lambda world: world.group([0, 1]).rank)


@pytest.mark.ways("threads")
def test_an_interrupt_inside_wait_is_no_result(ranks) -> None:
    class Interrupting:
        name, exact, error = "interrupting", False, 0.5

        def nbytes(self, n: int) -> int:
            return n

        def encode(self, x: np.ndarray, wire: np.ndarray) -> None:
            wire[:] = 0

        def decode(self, wire: np.ndarray, out: np.ndarray) -> None:
            if threading.current_thread().name.startswith("rank 1"):
                raise KeyboardInterrupt
            out[:] = 0

    def body(world) -> None:
        x = np.ones(1000, np.float32)
        with pytest.raises((KeyboardInterrupt, CommunicationError)):
            world.allreduce(x, codec=Interrupting(), collective="ring")
        with pytest.raises(CommunicationError, match="KeyboardInterrupt"):
            world.barrier()

    ranks(2, body)


def test_a_closed_world(ranks) -> None:
    def body(world) -> None:
        inner = world.group(range(world.size))
        inner.barrier()
        inner.close()
        with pytest.raises(InvalidArgument, match="is closed"):
            inner.barrier()
        world.barrier()

    ranks(2, body)


def test_a_rank_that_never_comes(ranks) -> None:
    """The others name it and the line where it is; it gets the same error in its next operation."""

    def body(world) -> str:
        inner = world.group(range(world.size))
        inner._group.timeout = 3.0
        try:
            if odd(world):
                begun = time.monotonic()
                while not inner.broken and time.monotonic() - begun < 60:
                    time.sleep(0.01)  # in user code
            inner.allreduce(np.ones(5))
        except Stalled as error:
            assert "ranks 0-1 in operation 0, allreduce(sum, float64 of shape 5" in str(error)
            assert "rank 2 in no operation, at test_trouble.py" in str(error)
            return str(error)
        raise AssertionError("no error")

    texts = ranks(3, body)
    assert texts is None or len(set(texts)) == 1


@pytest.mark.parametrize("graph", [False, True])
def test_ranks_that_wait_for_each_other_in_different_groups(ranks, graph) -> None:
    """As after loops of different lengths: noticed long before the time-out, in both groups, with both lines of the program.

    Also where one waits in a thread that a framework's graph calls from, while the program waits for the graph.
    """

    def in_the_graph(world, group, failed) -> None:
        with world._group.engine.speaking():
            try:
                group.allreduce(np.ones(5))
            except CommunicationError as error:
                failed.append(error)

    def reduce(world, group) -> None:
        if not (graph and odd(world)):
            group.allreduce(np.ones(5))
            return
        failed: list[CommunicationError] = []
        thread = threading.Thread(target=in_the_graph, args=(world, group, failed))
        thread.start()
        thread.join()
        for error in failed:
            raise error

    def body(world) -> None:
        inner = world.group(range(world.size))
        first, second = (inner, world) if odd(world) else (world, inner)
        place = r"rank \d (waits )?in .*, at test_trouble.py:\d+ in reduce"
        lines = f"different operations: {place}, and {place}"
        for group in (first, second):
            with pytest.raises(Mismatch, match=lines):
                reduce(world, group)
            time.sleep(1)  # the two groups have their verdicts one after the other; in between, what all call in the second is still done

    ranks(3, body)


def test_a_late_rank_is_waited_for(ranks) -> None:
    def body(world) -> None:
        if odd(world):
            time.sleep(5)  # long enough that neighbours have begun to compare notes
        assert (world.allreduce(np.ones(5)) == 2).all()

    ranks(2, body)


def test_an_error_inside_an_operation_reaches_all(ranks) -> None:
    class Broken:
        name, exact, error = "broken", False, 0.5

        def nbytes(self, n: int) -> int:
            return n

        def encode(self, x: np.ndarray, wire: np.ndarray) -> None:
            raise MemoryError("no room")

        def decode(self, wire: np.ndarray, out: np.ndarray) -> None:
            out[:] = 0

    def body(world) -> None:
        with pytest.raises(CommunicationError, match="MemoryError: no room"):
            world.allreduce(np.ones(5, np.float32), codec=Broken(), collective="ring")

    ranks(3, body)


def test_one_broken_group_leaves_the_others_alone(ranks) -> None:
    def body(world) -> None:
        inner = world.group(range(world.size))
        with pytest.raises(Mismatch):
            inner.allreduce(np.ones(2 + world.rank))
        assert (world.allreduce(np.ones(3)) == 3).all()
        assert (world.group(range(world.size)).allreduce(np.ones(3)) == 3).all()

    ranks(3, body)


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan"])
def test_a_bad_time_out(text, monkeypatch) -> None:
    monkeypatch.setenv("HPCDL_TIMEOUT", text)
    with pytest.raises(InvalidArgument, match=r"TIMEOUT must be a number of seconds|timeout must be more than 0"):
        hpcdl.World.solo()


def test_verdicts_depend_on_nothing_but_the_states() -> None:
    def waits(rank: int, number: int, fingerprint: int, text: str, **more) -> State:
        return State(rank, waiting=[Entry(number, fingerprint, text)], **more)

    silent = judge({0: waits(0, 4, 1, "barrier()", cause="stalled", detail="no progress for 9 s")}, 3, "the world")
    assert isinstance(silent, Stalled) and "ranks 1-2 did not answer" in str(silent)
    both = {0: waits(0, 4, 1, "a()"), 1: waits(1, 4, 2, "b()")}
    assert str(judge(both, 2, "w")) == str(judge(dict(reversed(both.items())), 2, "w"))
    assert "rank 0: a(); rank 1: b()" in str(judge(both, 2, "w"))
    lost = judge({0: waits(0, 4, 1, "a()", cause="lost", detail="connection reset")}, 2, "w")
    assert isinstance(lost, PeerLost) and "connection reset" in str(lost)

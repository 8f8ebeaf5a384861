"""The coordinator alone: when an operation is ordered, what is said about it, who is late."""

from __future__ import annotations

import pytest

from hpcdl.horovod.coordinator import Coordinator
from hpcdl.horovod.post import Line, Numbers, pack, unpack
from hpcdl.horovod.wanted import Verdict, Wanted


def want(name, shape=(2,), kind="allreduce", **more):
    return Wanted(kind, name, (("float32", shape),), **more)


def test_first_complete_first_served() -> None:
    desk = Coordinator((0, 1, 2))
    for rank, name in ((0, "a"), (1, "b"), (0, "b"), (2, "b"), (1, "a")):
        desk.hear(rank, want(name), -1)
    assert [order.verdict.wanted.name for order in desk.orders()] == ["b"]
    desk.hear(2, want("a"), -1)
    assert [order.verdict.wanted.name for order in desk.orders()] == ["a"] and desk.orders() == []


def test_what_was_said_once_is_a_number() -> None:
    desk = Coordinator((0, 1))
    found = []
    for shapes in (((2,), (2,)), ((2,), (2,)), ((2,), (3,)), ((2,), (3,))):
        for rank, shape in enumerate(shapes):
            desk.hear(rank, want("a", shape), -1)
        found += desk.orders()
    assert [order.new for order in found] == [True, False, True, False]
    assert [bool(order.verdict.error) for order in found] == [False, False, True, True]


def test_calls_without_a_name_go_by_number() -> None:
    desk = Coordinator((0, 1))
    desk.hear(0, want("noname"), 0)
    desk.hear(0, want("noname"), 1)
    desk.hear(1, want("noname"), 0)
    assert [order.number for order in desk.orders()] == [0]


def test_join() -> None:
    desk = Coordinator((0, 1, 2))
    desk.hear(0, want("a"), -1)
    desk.hear(1, Wanted("join", "join"), -1)
    assert not desk.orders()
    desk.hear(2, Wanted("join", "join"), -1)
    assert [order.verdict.wanted.name for order in desk.orders()] == ["a"]
    desk.hear(0, Wanted("join", "join"), -1)
    assert [order.verdict.last for order in desk.orders()] == [0]
    desk.hear(0, want("b"), -1)
    assert not desk.orders()  # nobody has joined any more


def test_who_is_late() -> None:
    desk = Coordinator((0, 4, 7))
    desk.hear(1, want("a"), -1)
    assert desk.late(60) == []
    [text] = desk.late(-1)
    assert text == "'a' (allreduce(float32 of shape [2])): rank 4 ready, waiting for ranks 0, 7"
    assert desk.late(-1) == []


@pytest.mark.parametrize(
    "wanted", [want("a", (), op="sum", scales=(0.5, 3.0)), Wanted("alltoall", "ü", splits=(1, 2)), Wanted("join", "join")]
)
def test_there_and_back(wanted) -> None:
    verdict = Verdict(wanted, "no", ((1, 2),), ((3,),), 4)
    lines = [Line(1, -1, b"abc"), Line(-5, 1 << 40)]
    again, [values] = unpack(pack(lines, [verdict]))
    assert again == lines and Verdict.from_json(values) == verdict


def test_numbers_run_out() -> None:
    numbers, told = Numbers(2), []
    assert [numbers.number(value, told.append) for value in "abacc"] == [0, 1, 0, -1, -1] and told == [0, 1, -1, -1]

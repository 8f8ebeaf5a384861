"""Law 2: every schedule is proved at 1 to 17 ranks before MPI sees it; and the proof can fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpcdl.collectives.collective import schedules
from hpcdl.collectives.schedule import Recv, Schedule, Send, Step
from hpcdl.collectives.simulate import Disproved, Network, draw, price, prove

IDS = [f"{schedule.name}-{schedule.kind}" for schedule in schedules]


@pytest.mark.parametrize("schedule", schedules, ids=IDS)
@pytest.mark.parametrize("size", range(1, 18))
def test_proved(schedule: Schedule, size: int) -> None:
    prove(schedule, size)


def broken(steps) -> Schedule:
    return Schedule("broken", "allreduce", steps, chunks=lambda size: 1)


def sends_twice(rank: int, size: int) -> Iterator[Step]:
    yield (Send(1, 0, 1), Send(1, 0, 1)) if rank == 0 else (Recv(0, 0, 1, True), Recv(0, 0, 1, True))


def waits_for_ever(rank: int, size: int) -> Iterator[Step]:
    yield (Recv(1 - rank, 0, 1, True),)
    yield (Send(1 - rank, 0, 1),)


def forgets_a_rank(rank: int, size: int) -> Iterator[Step]:
    yield (Send(1, 0, 1),) if rank == 0 else (Recv(0, 0, 1, True),)


def names_other_chunks(rank: int, size: int) -> Iterator[Step]:
    yield (Send(1, 0, 2),) if rank == 0 else (Recv(0, 0, 1, True),)


def encodes_on_both_sides(rank: int, size: int) -> Iterator[Step]:
    yield Send(1 - rank, 0, 1), Recv(1 - rank, 0, 1, True)
    yield Send(1 - rank, 0, 1, final=True), Recv(1 - rank, 0, 1, False)


def reduces_into_final(rank: int, size: int) -> Iterator[Step]:
    if rank == 0:
        yield (Send(1, 0, 1),)
        yield (Recv(1, 0, 1, False),)
        yield (Recv(1, 0, 1, True),)
    else:
        yield (Recv(0, 0, 1, True),)
        yield (Send(0, 0, 1, final=True),)
        yield (Send(0, 0, 1),)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (sends_twice, "encoded a second time"),
        (waits_for_ever, "nobody can go on"),
        (forgets_a_rank, "rank 0 ends with chunk 0"),
        (names_other_chunks, "chunks 0 to 0 only"),
        (encodes_on_both_sides, "encoded a second time"),
        (reduces_into_final, "encoded a second time"),
    ],
)
def test_disproved(steps, why: str) -> None:
    with pytest.raises(Disproved, match=why):
        prove(broken(steps), 2)


@pytest.mark.parametrize("size", [2, 4, 16, 1024])
def test_price_is_the_formula(size: int) -> None:
    net, n = Network(alpha=2e-6, beta=1e-9, gamma=1e-10), 1 << 20
    by_name = {(s.name, s.kind): s for s in schedules}
    ring = 2 * (size - 1) * net.alpha + 2 * n * (size - 1) / size * net.beta + n * (size - 1) / size * net.gamma
    assert price(by_name["ring", "allreduce"], size, n, net) == pytest.approx(ring)
    steps = size.bit_length() - 1
    halving = 2 * steps * net.alpha + 2 * n * (size - 1) / size * net.beta + n * (size - 1) / size * net.gamma
    assert price(by_name["halving-doubling", "allreduce"], size, n, net) == pytest.approx(halving)


def test_price_of_a_hundred_thousand_ranks() -> None:
    ring = next(s for s in schedules if (s.name, s.kind) == ("ring", "allreduce"))
    assert price(ring, 100_000, 1e9, Network(1e-6, 1e-9)) == pytest.approx(2.2, rel=1e-3)


def test_drawn() -> None:
    ring = next(s for s in schedules if (s.name, s.kind) == ("ring", "allreduce"))
    assert draw(ring, 2).splitlines() == [
        "ring allreduce, 2 ranks, 2 chunks",
        "  rank 0 step 0: 1>[1:2) 1+[0:1)",
        "  rank 0 step 1: 1>[0:1)! 1=[1:2)",
        "  rank 1 step 0: 0>[0:1) 0+[1:2)",
        "  rank 1 step 1: 0>[1:2)! 0=[0:1)",
    ]

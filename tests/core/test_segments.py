"""Pieces: their length changes no bit of a result, and what one step brings leaves in the next before the rest has come."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdl.arrays import HOST
from hpcdl.codecs import by_name as codec_named
from hpcdl.codecs import codecs
from hpcdl.collectives import ring
from hpcdl.collectives.collective import Scheduled, collectives
from hpcdl.collectives.execute import execute
from hpcdl.collectives.ops import by_name as op_named
from hpcdl.collectives.pool import Pool
from hpcdl.collectives.task import Task
from hpcdl.errors import InvalidArgument
from hpcdl.transport.metered import Metered
from hpcdl.transport.threads import ThreadHub

SCHEDULED = {name: collectives.get(name).schedule for name in collectives if isinstance(collectives.get(name), Scheduled)}


class Factor:
    """A scale that is there already."""

    source, nbytes, value = -1, 0, 1 / 3

    def done(self) -> bool:
        return True

    def cancel(self) -> None:
        pass


class Driven:
    """A schedule on n ranks, advanced by hand; with a codec, residuals begin at 1."""

    def __init__(self, schedule, inputs, **options) -> None:
        hub = ThreadHub(len(inputs))
        self.transports = [Metered(hub.transport(rank)) for rank in range(len(inputs))]
        self.tasks = [
            Task(x.copy(), op_named("sum"), transport=transport, pool=Pool(HOST), tag=0, header=np.array([0, 7]), **options)
            for x, transport in zip(inputs, self.transports, strict=True)
        ]
        for task in self.tasks:
            task.residual = None if task.codec.exact else np.ones_like(task.x)
        self.bodies = [execute(schedule, task) for task in self.tasks]
        self.waits = [next(body, None) for body in self.bodies]

    def drive(self, *ranks: int) -> None:
        """Let these ranks go as far as they can."""
        moved = True
        while moved:
            moved = False
            for rank in ranks:
                if self.waits[rank] is not None and self.waits[rank].done():
                    self.waits[rank], moved = next(self.bodies[rank], None), True


@pytest.mark.parametrize("codec", list(codecs))
@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_bit_depends_on_the_segment(n, name, codec) -> None:
    for dtype in (np.float32, np.float64):
        inputs = [np.random.default_rng(rank).standard_normal(30_001).astype(dtype) for rank in range(n)]
        results = []
        for segment in (0, 1000, 20_000):
            run = Driven(SCHEDULED[name], inputs, codec=codec_named(codec), scale=Factor(), segment=segment)
            run.drive(*range(n))
            assert run.waits == [None] * n
            assert len({task.x.tobytes() for task in run.tasks}) == 1
            results.append([(task.x.tobytes(), task.residual is not None and task.residual.tobytes()) for task in run.tasks])
        assert results[0] == results[1] == results[2]
        assert np.allclose(run.tasks[0].x, (sum(inputs) + n * (codec != "none")) / 3, atol=0.3)


@pytest.mark.parametrize("codec", list(codecs))
@pytest.mark.parametrize("name", SCHEDULED)
def test_small_segments(ranks, name, codec) -> None:
    def body(world) -> None:
        x = np.random.default_rng(world.rank).standard_normal(30_001).astype(np.float32)
        exact = world.allreduce(x.astype(np.float64), "mean", weight=world.rank)
        world.allreduce(x, "mean", codec, f"{name}:segment=1000", weight=world.rank)
        assert np.allclose(x, exact, atol=1e-6 if codec == "none" else 0.5)
        everyone = world.allgather(x[None].view(np.uint8))
        assert (everyone == everyone[0]).all()

    ranks(4, body)


@pytest.mark.parametrize("segment", [1, 4, 7, 1 << 40])
def test_odd_segments(ranks, segment) -> None:
    def body(world) -> None:
        for size in (0, 1, 500):
            x = np.full(size, world.rank + 1.0)
            world.allreduce(x, collective=f"halving-doubling:segment={segment}")
            assert (x == 6).all()

    ranks(3, body)


@pytest.mark.parametrize("segment", [-1, "'x'", 0.5])
def test_bad_segment(segment) -> None:
    with pytest.raises(InvalidArgument, match="ring: segment must be a number of bytes, 0 or more, got"):
        collectives.get(f"ring:segment={segment}")


@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_a_piece_does_not_wait_for_the_end_of_its_step(codec) -> None:
    pieces = 100
    inputs = [np.full(3 * 128 * pieces, rank + 1, np.float32) for rank in range(3)]
    run = Driven(ring.ALL_REDUCE, inputs, codec=codec_named(codec), segment=codec_named(codec).nbytes(128))
    run.drive(1, 2)  # rank 0 has sent what its window holds, and does nothing more
    sent = [transport.traffic.messages_sent - 1 for transport in run.transports]  # less the header
    assert 0 < sent[0] < pieces
    assert sent[1] == pieces + sent[0]  # the whole first step, and all of the second that it can
    run.drive(0, 1, 2)
    assert run.waits == [None] * 3 and all((task.x == (6 if codec == "none" else 9)).all() for task in run.tasks)

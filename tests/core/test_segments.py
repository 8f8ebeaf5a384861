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

SCHEDULED = [name for name in collectives if isinstance(collectives.get(name), Scheduled)]


@pytest.mark.parametrize("codec", list(codecs))
@pytest.mark.parametrize("collective", SCHEDULED)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_bit_depends_on_the_segment(ranks, n, collective, codec) -> None:
    def body(world) -> None:
        for dtype in (np.float32, np.float64):
            x = np.random.default_rng(world.rank).standard_normal(30_001).astype(dtype)
            residuals = [np.zeros_like(x), np.zeros_like(x)]
            lossy = codec != "none"
            options = {"op": "mean", "weight": world.rank + 0.5, "codec": codec}
            for _ in range(2):
                results = [
                    world.allreduce(
                        x, collective=name, out=np.empty_like(x), error_feedback=residual if lossy else None, **options
                    ).tobytes()
                    for name, residual in zip((collective, f"{collective}:segment=1000"), residuals, strict=True)
                ]
                assert results[0] == results[1] and residuals[0].tobytes() == residuals[1].tobytes()
            gathered = world.allgather(np.frombuffer(results[1], np.uint8)[None])
            assert (gathered == gathered[0]).all()

    ranks(n, body)


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
    hub, pieces = ThreadHub(3), 100
    transports = [Metered(hub.transport(rank)) for rank in range(3)]
    x = [np.full(3 * 128 * pieces, rank + 1, np.float32) for rank in range(3)]
    header, sums = np.array([0, 7]), op_named("sum")
    segment = codec_named(codec).nbytes(128)
    tasks = [Task(x[rank], sums, codec_named(codec), transports[rank], Pool(HOST), 0, header, segment=segment) for rank in range(3)]
    bodies = [execute(ring.ALL_REDUCE, task) for task in tasks]
    waits = [next(body) for body in bodies]

    def drive(*those: int) -> None:
        moved = True
        while moved:
            moved = False
            for rank in those:
                if waits[rank] is not None and waits[rank].done():
                    waits[rank], moved = next(bodies[rank], None), True

    drive(1, 2)  # rank 0 has sent what its window holds, and does nothing more
    from_rank_0 = transports[0].traffic.messages_sent - 1  # less the header
    assert 0 < from_rank_0 < pieces
    assert transports[1].traffic.messages_sent == 1 + pieces + from_rank_0  # the whole first step, and all of the second that it can
    drive(0, 1, 2)
    assert waits == [None] * 3 and all((values == 6).all() for values in x)

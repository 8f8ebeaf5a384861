"""`init` with some of four ranks: a list of them, in any order, or a communicator; again, with fewer; and by those who may not.

A process begins once: the cases on a list of ranks and that on communicators do not go together.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpcdl import errors, start
from hpcdl.horovod import basics as hvd
from hpcdl.horovod.process_sets import ProcessSet, add_process_set

sys.path.append(str(Path(__file__).parents[2]))
from harness.tell import raises, tell

ME = MPI.COMM_WORLD.rank


def everyone() -> list[int]:
    """The ranks of the job, as they are numbered now."""
    x = np.zeros(hvd.size(), np.int64)
    x[hvd.rank()] = ME
    hvd.named().allreduce([x], "everyone", "sum").wait()
    return x.tolist()


def refused(comm) -> str:
    return raises(errors.InvalidArgument, lambda: hvd.init(comm=comm))


def case_ranks() -> None:
    """Rank 1 stays outside; the others are numbered as they are listed."""
    if ME == 1:
        assert "rank 1 of 4 is not among the ranks [2, 0, 3]" in refused([2, 0, 3])
        assert "different and within 0 to 3, got [1, 4]" in refused([1, 4]) and "got [1, 1]" in refused([1, 1])
        assert not hvd.is_initialized() and start.running() is None
        return
    hvd.init(comm=[2, 0, 3])
    assert hvd.rank() == [2, 0, 3].index(ME) and hvd.size() == 3 == hvd.local_size() and everyone() == [2, 0, 3]
    hvd.init(comm=[0, 3])
    assert hvd.size() == 3, "a second call does nothing"
    hvd.shutdown()
    hvd.init(comm=[2, 0, 3], process_sets=[ProcessSet([0, 2])])
    assert everyone() == [2, 0, 3]
    hvd.shutdown()


def case_fewer_ranks() -> None:
    """After a shutdown: ranks are counted as MPI counts them. And rank 1 begins by itself."""
    if ME == 0:
        assert "is not among" in refused([3, 2]) or "only members" in refused([3, 2])
        return
    if ME == 1:
        hvd.init(comm=[1])
        assert hvd.size() == 1 and everyone() == [1]
        assert "begun with the ranks [1], and knows no others" in (hvd.shutdown() or refused([1, 2]))
        return
    assert "begun with the ranks [2, 0, 3], and knows no others" in refused([2, 1])
    hvd.init(comm=[3, 2])
    assert hvd.rank() == [3, 2].index(ME) and everyone() == [3, 2]
    hvd.shutdown()
    pair = MPI.COMM_WORLD.Create_group(MPI.COMM_WORLD.group.Incl([2, 3]))
    hvd.init(comm=pair)
    assert everyone() == [2, 3]
    hvd.shutdown()


def case_communicators() -> None:
    """Odd and even ranks, the last first; the communicator itself stays the caller's."""
    half = MPI.COMM_WORLD.Split(ME % 2, -ME)
    pair = [2 + ME % 2, ME % 2]
    for _ in range(2):
        hvd.init(comm=half, process_sets="dynamic")
        assert hvd.rank() == pair.index(ME) == half.rank and everyone() == pair
        alone = add_process_set([1])
        assert alone.included() == (ME < 2)
        hvd.shutdown()
    hvd.init()
    assert everyone() == pair, "the ranks that this process has begun with"
    hvd.shutdown()
    hvd.init(comm=list(reversed(pair)))
    assert everyone() == pair[::-1]
    hvd.shutdown()
    assert "knows no others" in refused(MPI.COMM_WORLD)
    assert half.allreduce(1) == 2
    raises(TypeError, lambda: hvd.init(comm=[None]))


if __name__ == "__main__":
    tell(globals(), ME, after=MPI.COMM_WORLD.Barrier)

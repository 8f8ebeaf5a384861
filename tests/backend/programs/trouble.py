"""What goes wrong ends in the same error on every rank, which names who does what. Each case has a group of its own to break."""

from __future__ import annotations

import time
from datetime import timedelta

import side
import torch
import torch.distributed as dist
from side import broken, refused
from torch import nn

import hpcdl.torch as ht
from hpcdl.errors import CommunicationError, Mismatch, PeerLost, Stalled


def odd(s):
    return s.rank == 3


def case_order(s):
    with broken(s, Mismatch, "allreduce(sum, float32 of shape 5", "rank 3: broadcast(float32 of shape 5", "operation 1") as group:
        x = torch.ones(5)
        dist.all_reduce(x, group=group)
        for call in [lambda: dist.all_reduce(x, group=group), lambda: dist.broadcast(x, 0, group=group)][:: -1 if odd(s) else 1]:
            call()


def case_shape_dtype_and_op(s):
    for mine, theirs, told in (
        (torch.ones(6), torch.ones(5), ("rank 3: allreduce(sum, float32 of shape 6", "allreduce(sum, float32 of shape 5")),
        (torch.ones(5, dtype=torch.int32), torch.ones(5), ("rank 3: allreduce(sum, int32", "allreduce(sum, float32")),
    ):
        with broken(s, Mismatch, *told) as group:
            dist.all_reduce(mine if odd(s) else theirs, group=group)
            dist.barrier(group=group)
    with broken(s, Mismatch, "rank 3: allreduce(max", "allreduce(min") as group:
        dist.all_reduce(torch.ones(5), dist.ReduceOp.MAX if odd(s) else dist.ReduceOp.MIN, group=group)
    with broken(s, Mismatch, "root 1", "root 0") as group:
        dist.reduce(torch.ones(5), 1 if odd(s) else 0, group=group)
        dist.barrier(group=group)


def case_splits(s):
    with broken(s, Mismatch, "sends", "has room for") as group:
        splits = [1, 1, 1, 1]
        dist.all_to_all_single(torch.zeros(5 if odd(s) else 4), torch.ones(4), [2, 1, 1, 1] if odd(s) else splits, splits, group=group)
        dist.barrier(group=group)


def case_message_size(s):
    with broken(s, Mismatch, "rank 0 sent 20 bytes with tag 3 where rank 3 expects 24") as group:
        if s.rank == 0:
            dist.send(torch.ones(5), 3, group=group, tag=3)
        if s.rank in (0, 1, 2):
            dist.recv(torch.zeros(1), 3, group=group, tag=9)  # never comes: hears of it
        dist.recv(torch.zeros(6), 0, group=group, tag=3)


def case_missing_rank(s):
    with broken(s, Stalled, "in operation 0, barrier", "rank 3 in no operation, at trouble.py:", "in late") as group:

        def late():
            time.sleep(2.5)

        if odd(s):
            late()
        begun = time.monotonic()
        try:
            ht.monitored_barrier(group, timeout=1)
        finally:
            assert time.monotonic() - begun < 20
    with broken(s, Stalled, "no progress for", "rank 3 in no operation", timeout=timedelta(seconds=1)) as group:
        if odd(s):
            time.sleep(2.5)
        dist.all_reduce(torch.ones(3), group=group)
    with broken(s, Stalled, "recv(bytes of shape 12, from rank 3, tag 0)", timeout=timedelta(seconds=1)) as group:
        if odd(s):
            time.sleep(2.5)
            dist.send(torch.ones(3), 0, group=group)
        else:
            dist.recv(torch.ones(3), 3, group=group)


def case_abort(s):
    with broken(s, CommunicationError) as group:
        if odd(s):
            group.abort()
            time.sleep(0.5)
            raise CommunicationError("as its neighbours")
        try:
            dist.all_reduce(torch.ones(5), group=group)
        except PeerLost as error:
            assert "rank 3 of 4 raised RuntimeError: process group aborted" in str(error)
            raise CommunicationError("as its neighbours") from None


def case_futures_tell(s):
    with broken(s, Mismatch) as group:
        work = dist.all_reduce(torch.ones(6 if odd(s) else 5), group=group, async_op=True)
        future = work.get_future().then(lambda f: f.value()[0] * 2)
        try:
            future.wait()
        except Mismatch:
            assert isinstance(work.exception(), Mismatch) and work.is_completed() and not work.is_success()
            work.wait()


def case_backward_tells(s):
    """DDP waits for futures in C++."""
    group = dist.new_group()
    model = nn.parallel.DistributedDataParallel(nn.Linear(30, 3), process_group=group)
    out = model(torch.ones(2, 30)).sum()
    try:
        if odd(s):
            dist.barrier(group=group)
        else:
            out.backward()
        raise AssertionError("no error")
    except RuntimeError as error:
        assert "Mismatch" in f"{type(error)} {error}" and "barrier" in str(error) and "allreduce" in str(error), error


def case_wrong_arguments(s):
    world = dist.group.WORLD
    for call, told in (
        (lambda: dist.all_reduce(torch.ones(3), dist.ReduceOp.BAND), "BAND is not defined for torch.float32"),
        (lambda: dist.all_reduce(torch.ones(3, dtype=torch.bool), dist.ReduceOp.AVG), "AVG is not defined for torch.bool"),
        (lambda: world.allreduce([torch.ones(3, dtype=torch.complex64)], dist.ReduceOp.MAX), "MAX is not defined for torch.complex64"),
        (lambda: dist.all_gather_single(torch.zeros(5), torch.ones(2)), "an output of shape (5,), torch.float32 for 4 × shape (2,)"),
        (lambda: dist.reduce_scatter_single(torch.zeros(5), torch.ones(2)), "an input of 2 elements for 4 outputs of 5"),
        (lambda: dist.all_to_all_single(torch.zeros(5), torch.ones(5)), "5 rows does not divide by 4 ranks"),
        (lambda: world.broadcast(torch.ones(3), 9), "root must be 0 to 3, got 9"),
        (lambda: world.broadcast(torch.eye(2).to_sparse(), 0), "is sparse, which only all_reduce takes"),
        (lambda: ht.monitored_barrier(s.gloo), "a process group of the backend 'hpcdl'"),
        (lambda: ht.monitored_barrier(timeout=0), "timeout must be more than 0"),
        (lambda: ht.comm_hook("fp8"), "unknown codec 'fp8'; known:"),
        (lambda: ht.comm_hook()(s.gloo, None), "as state, or None"),
        (lambda: ht.init_process_group(timeout=-1), "timeout must be more than 0"),
    ):
        with refused(told):
            call()
    x = torch.ones(2)
    dist.all_reduce(x)  # and nothing is broken
    assert (x == s.size).all()


side.run(globals())

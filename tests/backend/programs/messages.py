"""Point to point: tags, any source, batches, many under way, never behind a collective."""

from __future__ import annotations

import time
from datetime import timedelta

import side
import torch
import torch.distributed as dist

SIZES = (0, 1, 1000, 4096, 4097, 300_000, 5_000_001)  # elements: within a header, beyond, in several pieces


def case_send_and_recv(s):
    for dtype in (torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.complex64):

        def body(group, dtype=dtype):
            got = torch.zeros(10, dtype=dtype)
            if s.rank == 0:
                dist.send(torch.arange(10).to(dtype), 3, group=group, tag=9)
            elif s.rank == 3:
                assert dist.recv(got, 0, group=group, tag=9) == 0
            return got.to(torch.complex64)

        body(s.ours) if dtype.is_complex else s.same(body)


def case_sizes(s):
    right, left = (s.rank + 1) % s.size, (s.rank - 1) % s.size
    for size in SIZES:
        got = torch.zeros(size)
        works = [dist.isend(torch.full((size,), float(s.rank)), right), dist.irecv(got, left)]
        for work in works:
            work.wait()
        assert (got == left).all()


def case_order_and_tags(s):
    """Messages of one tag keep their order; other tags may be received first; large and small ones mix."""
    if s.rank == 1:
        works = [dist.isend(torch.full((k * 3000 + 1,), float(k)), 2, tag=k % 3) for k in range(12)]
        for work in works:
            work.wait()
    if s.rank == 2:
        for tag in (2, 0, 1):
            for k in range(tag, 12, 3):
                got = torch.zeros(k * 3000 + 1)
                dist.recv(got, 1, tag=tag)
                assert (got == k).all(), (k, got)


def case_any_source(s):
    def body(group):
        if s.rank == 0:
            seen = []
            for _ in range(2 * (s.size - 1)):
                got = torch.zeros(5000)
                source = dist.recv(got, group=group, tag=4)
                assert (got == source).all()
                seen.append(source)
            return torch.tensor(sorted(seen))
        for _ in range(2):
            dist.send(torch.full((5000,), float(s.rank)), 0, group=group, tag=4)
        return torch.zeros(0)

    s.same(body)
    if s.rank == 0:  # several at once, beside receives from a certain rank
        gots = [torch.zeros(20_000) for _ in range(s.size - 1)]
        certain = torch.zeros(20_000)
        works = [dist.group.WORLD.recv_anysource([got], 5) for got in gots] + [dist.irecv(certain, 1, tag=6)]
        for work in works:
            work.wait()
        assert sorted(got[0].item() for got in gots) == [1, 2, 3] and (certain == 10).all()
        assert sorted(work._source_rank() for work in works[:-1]) == [1, 2, 3]
        assert all((got == got[0]).all() for got in gots)
    else:
        dist.send(torch.full((20_000,), float(s.rank)), 0, tag=5)
        if s.rank == 1:
            dist.send(torch.full((20_000,), 10.0), 0, tag=6)


def case_batches(s):
    def body(group):
        right, left = (s.rank + 1) % s.size, (s.rank - 1) % s.size
        got, back = torch.zeros(100_000), torch.zeros(3)
        ops = [
            dist.P2POp(dist.isend, torch.full((100_000,), float(s.rank)), right, group),
            dist.P2POp(dist.irecv, got, left, group),
            dist.P2POp(dist.irecv, back, right, group, tag=1),
            dist.P2POp(dist.isend, torch.full((3,), float(s.rank)), left, group, tag=1),
        ]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        return got, back

    s.same(body)


def case_objects_as_messages(s):
    if s.rank == 0:
        dist.send_object_list([{"a": 1}, "b" * 100_000], 1)
    if s.rank == 1:
        got = [None, None]
        dist.recv_object_list(got, 0)
        assert got == [{"a": 1}, "b" * 100_000]


def case_beside_collectives(s):
    """A message is received while a collective waits for the rank that sends it only then."""
    x = torch.ones(100_000)
    if s.rank == 0:
        got = torch.zeros(50_000)
        reduction = dist.all_reduce(x, async_op=True)
        assert dist.recv(got, 1) == 1 and (got == 7).all()
        assert not reduction.is_completed()
        dist.send(torch.ones(1), 1)
        reduction.wait()
    else:
        if s.rank == 1:
            time.sleep(0.3)
            dist.send(torch.full((50_000,), 7.0), 0)
            dist.recv(torch.zeros(1), 0)
        dist.all_reduce(x)
    assert (x == s.size).all()


def case_sub_groups_and_layouts(s):
    pair, pair_gloo = s.new([3, 1])
    if s.rank in (1, 3):

        def body(group):
            got = torch.zeros(4, 6)[:, ::2]
            if s.rank == 1:
                dist.send((torch.arange(12.0).reshape(3, 4)).t().contiguous(), 3, group=group)
            elif group is pair:
                dist.recv(got, 1, group=group)
            else:
                got = torch.zeros(4, 3)
                dist.recv(got, 1, group=group)
            return got.clone()

        torch.testing.assert_close(body(pair), body(pair_gloo))
        if s.rank == 1:
            dist.send(torch.arange(12.0).reshape(3, 4).t(), 3, group=pair)  # not contiguous
        else:
            got = torch.zeros(4, 3)
            dist.recv(got, 1, group=pair)
            assert (got == torch.arange(12.0).reshape(3, 4).t()).all()


def case_time_out(s):
    if s.rank == 2:
        got = torch.zeros(2)
        work = dist.irecv(got, 3)
        try:
            work.wait(timedelta(seconds=0.1))
            raise AssertionError("no time-out")
        except RuntimeError as error:
            assert "recv(bytes of shape 8, from rank 3, tag 0) has not finished after 0.1 s" in str(error), error
        dist.send(torch.ones(1), 3)
        work.wait()
        assert (got == 5).all()
    if s.rank == 3:
        dist.recv(torch.zeros(1), 2)
        dist.send(torch.full((2,), 5.0), 2)


def case_wrong_arguments(s):
    for call, told in (
        (lambda: dist.send(torch.ones(1), (s.rank + 1) % s.size, tag=-1), "tag must be 0 to"),
        (lambda: dist.group.WORLD.send([torch.ones(1)], 77, 0), "must be 0 to 3 and not this one, got 77"),
        (lambda: dist.group.WORLD.recv([torch.ones(1)], s.rank, 0), "not this one"),
    ):
        try:
            call()
            raise AssertionError("no error")
        except (RuntimeError, ValueError) as error:
            assert told in str(error), error


if __name__ == "__main__":
    side.run(globals())

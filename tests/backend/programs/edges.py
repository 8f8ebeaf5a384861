"""What is asked for seldom, or by mistake: dtypes that differ, memory that overlaps, sparse tensors, factors, callbacks that raise."""

from __future__ import annotations

import resource

import side
import torch
import torch.distributed as dist
from side import broken, refused
from torch import nn
from torch.distributed import ReduceOp

from hpcdl.errors import Mismatch


def sparse(where, values, shape):
    return torch.sparse_coo_tensor(torch.tensor(where, dtype=torch.long), values, shape)


def case_sparse_ranks_disagree(s):
    odd = s.rank == 3
    usual = sparse([[0, 1]], torch.ones(2), (5,))
    for other, told in (
        (sparse([[0, 1]], torch.ones(2, dtype=torch.int32), (5,)), "sparse int32 of shape 5"),
        (sparse([[0, 6]], torch.ones(2), (7,)), "sparse float32 of shape 7"),
        (usual.to_dense(), "allreduce(sum, float32 of shape 5"),
    ):
        with broken(s, Mismatch, "sparse float32 of shape 5", told) as group:
            dist.all_reduce(other if odd else usual.clone(), group=group)
            dist.barrier(group=group)
    with broken(s, Mismatch, "allreduce(mean, sparse", "allreduce(sum, sparse") as group:
        dist.all_reduce(usual.clone(), ReduceOp.AVG if odd else ReduceOp.SUM, group=group)
        dist.barrier(group=group)
    with broken(s, Mismatch, "1 sparse dimensions", "2 sparse dimensions") as group:
        x = sparse([[0, 1], [1, 2]], torch.ones(2), (5, 3)) if odd else sparse([[0, 1]], torch.ones(2, 3), (5, 3))
        dist.all_reduce(x, group=group)
        dist.barrier(group=group)


def case_sparse_few_rows(s):
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.complex128):
        x = sparse([[1] if s.rank == 2 else []], torch.ones(int(s.rank == 2), 3, dtype=dtype), (5, 3))
        dist.group.WORLD.allreduce([x]).wait()
        right = torch.zeros(5, 3, dtype=dtype)
        right[1] = 1
        assert x.to_dense().equal(right), x
        x = sparse([[]], torch.zeros(0, 3, dtype=dtype), (5, 3)).coalesce()
        dist.group.WORLD.allreduce([x]).wait()
        assert x.to_dense().equal(torch.zeros(5, 3, dtype=dtype))
    x = sparse([[1]], torch.tensor([-s.rank - 1]), (5,))
    dist.all_reduce(x, ReduceOp.AVG)
    assert x.to_dense().tolist() == [0, -2, 0, 0, 0], "integers are divided towards 0, as dense ones are"


def case_sparse_gradient_of_one_row(s):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(10, 3, sparse=True, mode="sum")

        def forward(self, words):
            return self.bag(words, torch.tensor([0]))

    model = nn.parallel.DistributedDataParallel(Bag())
    model(torch.tensor([1] if s.rank == 0 else [], dtype=torch.long)).sum().backward()
    right = torch.zeros(10, 3)
    right[1] = 1 / s.size
    assert model.module.bag.weight.grad.to_dense().equal(right)


def case_dtypes_of_one_rank(s):
    world = dist.group.WORLD
    ones, whole = torch.ones(2), torch.zeros(2 * s.size, dtype=torch.int32)
    with refused("all_gather: all tensors must have one dtype, got torch.float32, torch.int32"):
        dist.all_gather_into_tensor(whole, ones)
    with refused("all_gather: all tensors must have one dtype"):
        world.allgather([list(whole.split(2))], [ones]).wait()
    with refused("all_gather: all tensors must have one dtype"):
        dist.all_gather_into_tensor(torch.zeros(s.size, dtype=torch.float64), ones)
    with refused("all_to_all: all tensors must have one dtype"):
        world.alltoall_base(torch.zeros(s.size), torch.zeros(s.size, dtype=torch.int32), [], [])
    mixed = [torch.zeros(2, dtype=torch.int32 if r % 2 else torch.float32) for r in range(s.size)]
    with refused("all_to_all: all tensors must have one dtype"):
        world.alltoall(mixed, [ones] * s.size)


def case_dtypes_between_ranks(s):
    dtype = torch.int32 if s.rank == 3 else torch.float32
    for call, told in (
        (lambda group: dist.all_gather_into_tensor(torch.zeros(2 * s.size, dtype=dtype), torch.ones(2, dtype=dtype), group=group), ""),
        (lambda group: dist.broadcast(torch.ones(2, dtype=dtype), 0, group=group), "broadcast(int32 of shape 2"),
        (lambda group: dist.all_to_all_single(torch.zeros(s.size, dtype=dtype), torch.ones(s.size, dtype=dtype), group=group), ""),
    ):
        with broken(s, Mismatch, "float32", "int32", told) as group:
            call(group)
            dist.barrier(group=group)
    with broken(s, Mismatch, "rank 0 sent float32 with tag 0 where rank 3 expects int32") as group:
        if s.rank == 0:
            dist.send(torch.ones(2), 3, group=group)
        dist.recv(torch.zeros(2, dtype=dtype), 0 if s.rank == 3 else 3, group=group)  # the others hear of it
    x = torch.full((2, 3) if s.rank else (6,), float(s.rank))  # shapes may differ
    dist.broadcast(x, 2)
    assert (x == 2).all()


def case_factors(s):
    total = s.size * (s.size - 1) / 2
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int32):
        op = dist._make_nccl_premul_sum(torch.tensor([2]) if dtype == torch.int32 else torch.tensor([2.0]))
        x, y, out = torch.full((3,), s.rank, dtype=dtype), torch.full((3,), s.rank, dtype=dtype), torch.zeros(3, dtype=dtype)
        dist.group.WORLD.allreduce([x], op).wait()
        dist.group.WORLD.reduce(y, 0, op).wait()
        dist.group.WORLD.reduce_scatter_single(out, torch.full((3 * s.size,), s.rank, dtype=dtype), _scatter(op)).wait()
        assert (x == 2 * total).all() and (out == 2 * total).all() and (y == (s.rank or 2 * total)).all(), (dtype, x, y, out)
    half = dist._make_nccl_premul_sum(0.5)
    for dtype in (torch.int64, torch.bool):
        x = torch.ones(s.size, dtype=dtype)
        for call in (
            lambda x: dist.all_reduce(x, half),
            lambda x: dist.reduce(x, 0, half),
            lambda x: dist.reduce_scatter_tensor(x[:1].clone(), x, half),
        ):
            with refused(f"the factor 0.5 of PREMUL_SUM does not fit {dtype}"):
                call(x)


def _scatter(op):
    options = dist.ReduceScatterOptions()
    options.reduceOp = op
    return options


def case_memory_that_overlaps(s):
    n = 30_000
    for shift in (0, s.size):
        memory = torch.arange(float(n * s.size + s.size)) + 1e6 * s.rank
        x, out = memory[: n * s.size], memory[shift : n * s.size + shift]
        right = torch.cat([torch.arange(n * s.rank, n * s.rank + n) + 1e6 * r for r in range(s.size)]).float()
        dist.all_to_all_single(out, x)
        assert out.equal(right)
    parts = list((torch.arange(float(s.size)) + 10 * s.rank).split(1))
    dist.all_to_all(parts, parts[::-1])
    assert torch.cat(parts).tolist() == [10.0 * r + s.size - 1 - s.rank for r in range(s.size)]
    given = torch.arange(float(s.size))
    dist.scatter(given[2:3], list(given.split(1)) if s.rank == 1 else None, 1)
    assert given[2] == s.rank


def case_elements_that_share_memory(s):
    world, x = dist.group.WORLD, torch.ones(1).expand(5)
    for call in (
        lambda: dist.all_reduce(x),
        lambda: dist.reduce(x, 0),
        lambda: dist.broadcast(x, 0),
        lambda: world.allgather([[x] * s.size], [torch.ones(5)]),
        lambda: world.reduce_scatter([x], [[torch.ones(5)] * s.size]),
        lambda: world.alltoall([x] * s.size, [torch.ones(5)] * s.size),
        lambda: world.recv([x], (s.rank + 1) % s.size, 0),
    ):
        with refused("elements of the tensor of shape (5,) share memory"):
            call()
    out = torch.zeros(5)
    world.reduce_scatter([out], [[x] * s.size]).wait()  # as input they may
    assert (out == s.size).all()


def case_other_sparse_layouts(s):
    with refused("of layout torch.sparse_csr, which nothing takes; pass x.to_dense()"):
        dist.all_reduce(torch.eye(3).to_sparse_csr())
    with refused("sparse tensors are reduced by SUM and AVG, not PREMUL_SUM"):
        dist.all_reduce(torch.eye(3).to_sparse(), dist._make_nccl_premul_sum(2.0))


def case_callbacks_that_end_the_program(s):
    for kind in (SystemExit, KeyboardInterrupt):

        def end(future, kind=kind):
            raise kind(3)

        child = dist.all_reduce(torch.ones(3), async_op=True).get_future().then(end)
        after = child.then(lambda future: future.value())
        for future in (child, after):
            try:
                future.wait()
                raise AssertionError("no error")
            except kind as error:
                assert error.args == (3,)


def case_groups_that_come_and_go(s):
    """Shared memory of groups that have been destroyed is given back."""

    def pages():
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

    def cycle(members):
        group = dist.new_group(members)
        if s.rank in members:
            x = torch.ones(3)
            dist.all_reduce(x, group=group)
            assert (x == len(members)).all()
            dist.destroy_process_group(group)

    for members in (list(range(s.size)), [0, 2]):
        cycle(members)
    before = pages()
    for k in range(40):
        cycle([0, 2] if k % 4 == 3 else list(range(s.size)))
    assert pages() - before < 40, f"grown by {pages() - before} MiB"
    held = dist.new_group()
    x = torch.ones(1_000_000)
    work = dist.all_reduce(x, group=held, async_op=True)
    dist.destroy_process_group(held)  # under way
    later = [dist.new_group() for _ in range(3)]
    work.wait()
    assert (x == s.size).all()
    for group in later:
        dist.all_reduce(x, group=group)
    assert (x == s.size**4).all()


if __name__ == "__main__":
    side.run(globals())

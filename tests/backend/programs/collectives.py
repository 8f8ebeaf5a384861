"""Every collective of c10d, in all its forms, beside gloo's, or beside what it must give where gloo has none."""

from __future__ import annotations

import gc
import time
from datetime import timedelta

import side
import torch
import torch.distributed as dist
from torch.distributed import ReduceOp
from torch.multiprocessing.reductions import StorageWeakRef

REALS = (torch.float32, torch.float64, torch.float16)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
OTHERS = (torch.bfloat16, torch.bool, torch.complex64, torch.complex128)
SHAPES = ((), (0,), (1,), (7,), (3, 5), (1000,), (70001,))


def shapes(dtype):
    """All of them for one dtype, few for the others."""
    return SHAPES if dtype == torch.float32 else ((), (0,), (3, 5))


def some(dtype, shape, rank, whole=True):
    """Values whose sums and products over ranks are exact."""
    x = (torch.arange(int(torch.Size(shape).numel())).reshape(shape) * 7 + 3 * rank) % 5
    return x.to(dtype) if whole else x.to(dtype) + rank / 8


def held(dtype, group, s):
    """The dtype in which gloo gets values of `dtype`: it has no int16."""
    return torch.int32 if group is s.gloo and dtype == torch.int16 else dtype


def case_all_reduce(s):
    for dtype in (*REALS, *INTEGERS):
        for shape in shapes(dtype):
            for op in (ReduceOp.SUM, ReduceOp.PRODUCT, ReduceOp.MIN, ReduceOp.MAX):
                for wait in (False, True) if dtype == torch.float32 else (True,):

                    def body(group, dtype=dtype, shape=shape, op=op, wait=wait):
                        x = some(held(dtype, group, s), shape, s.rank)
                        work = dist.all_reduce(x, op, group=group, async_op=wait)
                        if wait:
                            work.wait()
                        return x.to(dtype)

                    s.same(body)


def case_bit_operations(s):
    for dtype in INTEGERS:
        for op in (ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR):

            def body(group, dtype=dtype, op=op):
                x = torch.arange(40).to(held(dtype, group, s)) * 3 + s.rank
                dist.all_reduce(x, op, group=group)
                return x.to(dtype)

            s.same(body)


def case_other_dtypes(s):
    for shape in SHAPES:
        x = some(torch.bfloat16, shape, s.rank)
        dist.all_reduce(x)
        torch.testing.assert_close(x, sum(some(torch.bfloat16, shape, r) for r in range(s.size)), rtol=0, atol=0)
        for dtype in (torch.complex64, torch.complex128):
            x = torch.complex(some(torch.float32, shape, s.rank), -some(torch.float32, shape, s.rank + 1)).to(dtype)
            each = [torch.complex(some(torch.float32, shape, r), -some(torch.float32, shape, r + 1)).to(dtype) for r in range(s.size)]
            for op, right in ((ReduceOp.SUM, sum(each)), (ReduceOp.AVG, sum(each) / s.size)):
                y = x.clone()
                dist.all_reduce(y, op)
                torch.testing.assert_close(y, right)
            y = x.conj()  # a view that is not its memory
            dist.group.WORLD.allreduce([y]).wait()
            torch.testing.assert_close(y, sum(each).conj())
    flags = torch.tensor([s.rank == 0, True, False, s.rank != 1])
    for op, right in (
        (ReduceOp.SUM, [1, 1, 0, 1]),
        (ReduceOp.MAX, [1, 1, 0, 1]),
        (ReduceOp.PRODUCT, [0, 1, 0, 0]),
        (ReduceOp.BAND, [0, 1, 0, 0]),
    ):
        x = flags.clone()
        dist.all_reduce(x, op)
        assert x.tolist() == [bool(flag) for flag in right], (op, x)
    x = torch.full((300,), s.rank, dtype=torch.float32).to(torch.float8_e4m3fn)
    dist.group.WORLD.allreduce([x]).wait()
    assert (x.float() == s.size * (s.size - 1) / 2).all()
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        x = torch.full((5,), s.rank, dtype=dtype)
        dist.all_reduce(x, ReduceOp.MAX)
        assert x.tolist() == [s.size - 1] * 5


def case_averages_and_factors(s):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.full((1000,), float(s.rank), dtype=dtype)
        dist.all_reduce(x, ReduceOp.AVG)
        assert (x == (s.size - 1) / 2).all()
        out = torch.zeros(2, dtype=dtype)
        dist.reduce_scatter_single(out, torch.full((2 * s.size,), float(s.rank), dtype=dtype), ReduceOp.AVG)
        assert (out == (s.size - 1) / 2).all()
    x = torch.full((9,), s.rank + 1, dtype=torch.int64)
    dist.all_reduce(x, ReduceOp.AVG)
    assert (x == (s.size + 1) // 2).all()
    for factor in (0.5, torch.tensor([2.0])):
        op, x = dist._make_nccl_premul_sum(factor), torch.full((5,), float(s.rank))
        dist.all_reduce(x, op)
        assert (x == float(factor) * s.size * (s.size - 1) / 2).all(), x
        given = torch.full((s.size * 3,), float(s.rank))
        out = torch.zeros(3)
        dist.reduce_scatter_single(out, given, op)
        assert (out == float(factor) * s.size * (s.size - 1) / 2).all() and (given == s.rank).all()


def case_layouts(s):
    """Tensors whose memory is not their values in order, and leaves of autograd."""

    def body(group):
        x = torch.arange(24.0).reshape(4, 6) + s.rank
        columns, leaf = x[:, ::2], torch.ones(3, requires_grad=True)
        dist.all_reduce(columns, group=group) if group is s.ours else columns.copy_(reduced(columns.contiguous(), group))
        dist.all_reduce(leaf.data, group=group)
        return x, leaf.detach()

    def reduced(x, group):
        dist.all_reduce(x, group=group)
        return x

    s.same(body)
    x = torch.zeros(3, 4).t()
    x.copy_(torch.arange(12.0).reshape(4, 3) * (s.rank == 2))
    dist.group.WORLD.broadcast(x, 2).wait()
    assert (x == torch.arange(12.0).reshape(4, 3)).all() and not x.is_contiguous()
    outs = [torch.zeros(4, 3).t() for _ in range(s.size)]
    dist.group.WORLD.allgather([outs], [(torch.arange(12.0).reshape(4, 3) + s.rank).t()]).wait()
    assert all((out == (torch.arange(12.0).reshape(4, 3) + r).t()).all() for r, out in enumerate(outs))


def case_coalesced(s):
    def body(group):
        tensors = [some(torch.float32, shape, s.rank) for shape in SHAPES]
        dist.all_reduce_coalesced(tensors, group=group)
        with dist._coalescing_manager(group=group) as _:
            many = [some(torch.float32, (k,), s.rank) for k in (1, 5, 700)]
            for x in many:
                dist.all_reduce(x, group=group)
        return tensors, many

    s.same(body)
    outs, ins = [torch.zeros(s.size * k) for k in (1, 5)], [torch.full((k,), float(s.rank)) for k in (1, 5)]
    with dist._coalescing_manager(async_ops=True) as manager:
        for out, x in zip(outs, ins, strict=True):
            dist.all_gather_single(out, x)
    manager.wait()
    assert all((out.reshape(s.size, -1)[r] == r).all() for out in outs for r in range(s.size))
    parts = [torch.zeros(k) for k in (1, 5)]
    with dist._coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:
        for part, out in zip(parts, outs, strict=True):
            dist.reduce_scatter_single(part, out)
    manager.wait()
    assert all((part == s.rank * s.size).all() for part in parts)
    lists = [[torch.zeros(2), torch.zeros(3)] for _ in range(s.size)]
    dist.all_gather_coalesced(lists, [torch.full((2,), float(s.rank)), torch.full((3,), float(s.rank))])
    assert all((x == r).all() for r, tensors in enumerate(lists) for x in tensors)


def case_broadcast_and_reduce(s):
    for dtype in (torch.float32, torch.int16, torch.int64, torch.bfloat16, torch.bool):
        for root in range(s.size):
            for shape in ((), (0,), (5,), (40000,)) if dtype == torch.float32 else ((5,),):

                def body(group, dtype=dtype, root=root, shape=shape):
                    x, y = some(held(dtype, group, s), shape, s.rank), some(held(dtype, group, s), shape, s.rank)
                    dist.broadcast(x, root, group=group)
                    if dtype not in (torch.bool, torch.bfloat16):
                        dist.reduce(y, root, group=group)
                    return x.to(dtype), y.to(dtype) if s.rank == root else None

                s.same(body)
    x = torch.full((50000,), 1.0 + s.rank)
    dist.reduce(x, 1)
    assert (x == (s.size * (s.size + 1) / 2 if s.rank == 1 else 1.0 + s.rank)).all(), "what other ranks have must stay"


def case_all_gather(s):
    for dtype in (*REALS, *INTEGERS, *OTHERS):
        for shape in shapes(dtype):

            def body(group, dtype=dtype, shape=shape):
                x = some(dtype, shape, s.rank)
                outs = [torch.zeros(shape, dtype=dtype) for _ in range(s.size)]
                dist.all_gather(outs, x, group=group)
                return outs

            gathered = body(s.ours) if dtype in (torch.bfloat16, torch.int16) else s.same(body)
            whole = torch.zeros(s.size * max(1, torch.Size(shape).numel()), dtype=dtype)
            if shape != (0,):
                dist.all_gather_single(whole, some(dtype, shape, s.rank))
                torch.testing.assert_close(whole, torch.cat([x.reshape(-1) for x in gathered]))
    outs = [torch.zeros(r, 3) for r in range(s.size)]
    dist.all_gather(outs, torch.full((s.rank, 3), float(s.rank)))  # of unequal length
    assert all((out == r).all() for r, out in enumerate(outs))
    whole = torch.zeros(s.size * 5)
    whole[5 * s.rank : 5 * s.rank + 5] = s.rank
    dist.all_gather_single(whole, whole[5 * s.rank : 5 * s.rank + 5])  # the input lies in the output
    assert (whole.reshape(s.size, 5) == torch.arange(s.size)[:, None]).all()
    stacked = torch.zeros(s.size, 2, 3)
    dist.all_gather_single(stacked, torch.full((2, 3), float(s.rank)))
    assert all((stacked[r] == r).all() for r in range(s.size))


def case_gather_and_scatter(s):
    for dtype in (torch.float32, torch.int64, torch.bool, torch.complex64):
        for root in range(s.size):

            def body(group, dtype=dtype, root=root):
                outs = [torch.zeros(4, 2, dtype=dtype) for _ in range(s.size)] if s.rank == root else None
                dist.gather(some(dtype, (4, 2), s.rank), outs, dst=root, group=group)
                mine = torch.zeros(3, dtype=dtype)
                dist.scatter(mine, [some(dtype, (3,), r) for r in range(s.size)] if s.rank == root else None, src=root, group=group)
                return outs, mine

            if dtype.is_complex:
                outs, mine = body(s.ours)
                assert (mine == some(dtype, (3,), s.rank)).all()
                assert outs is None or all((out == some(dtype, (4, 2), r)).all() for r, out in enumerate(outs))
            else:
                s.same(body)


def case_reduce_scatter(s):
    for dtype in (*REALS, *INTEGERS):
        for n in (0, 1, 7, 3000) if dtype == torch.float32 else (7,):
            given = [some(dtype, (n,), s.rank + r) for r in range(s.size)]
            right = sum(some(dtype, (n,), r + s.rank) for r in range(s.size)).to(dtype)
            out = torch.zeros(n, dtype=dtype)
            dist.reduce_scatter(out, given)
            torch.testing.assert_close(out, right, rtol=0, atol=0)
            out = torch.zeros(n, dtype=dtype)
            before = torch.cat(given)
            dist.reduce_scatter_single(out, before)
            torch.testing.assert_close(out, right, rtol=0, atol=0)
            torch.testing.assert_close(before, torch.cat(given), rtol=0, atol=0)
    out = torch.zeros(s.rank + 1)
    dist.reduce_scatter(out, [torch.full((r + 1,), float(s.rank)) for r in range(s.size)], ReduceOp.MAX)  # of unequal length
    assert (out == s.size - 1).all()

    def body(group):
        out = torch.zeros(5)
        dist.reduce_scatter_single(out, torch.arange(5.0 * s.size) + s.rank, group=group)
        return out

    s.same(body)


def case_all_to_all(s):
    def even(group):
        x, out = torch.arange(8.0 * s.size).reshape(-1, 2) + 100 * s.rank, torch.zeros(4 * s.size, 2)
        dist.all_to_all_single(out, x, group=group)
        return out

    def uneven(group):
        into = [s.rank + r for r in range(s.size)]
        x, out = torch.arange(2.0 * sum(into)).reshape(-1, 2) + 100 * s.rank, torch.zeros(sum(into), 2)
        dist.all_to_all_single(out, x, into, into, group=group)
        return out

    s.same(even)
    s.same(uneven)
    outs = [torch.zeros(r + s.rank, dtype=torch.int64) for r in range(s.size)]
    dist.all_to_all(outs, [torch.full((r + s.rank,), 10 * s.rank + r) for r in range(s.size)])
    assert all((out == 10 * r + s.rank).all() for r, out in enumerate(outs))


def case_objects(s):
    def body(group):
        everyone, told, mine = [None] * s.size, [{"from": s.rank}, None], [None]
        dist.all_gather_object(everyone, {"rank": s.rank, "text": "x" * s.rank * 1000}, group=group)
        dist.broadcast_object_list(told, 1, group=group)
        at_root = [None] * s.size if s.rank == 2 else None
        dist.gather_object((s.rank,), at_root, dst=2, group=group)
        dist.scatter_object_list(mine, [f"for {r}" for r in range(s.size)] if s.rank == 0 else [None] * s.size, 0, group=group)
        return str((everyone, told, at_root, mine))

    assert body(s.ours) == body(s.gloo)


def case_sub_groups(s):
    odd, odd_gloo = s.new([1, 3])
    even, even_gloo = s.new([0, 2])
    back = dist.new_group([3, 1, 0])
    mine, theirs = (odd, odd_gloo) if s.rank % 2 else (even, even_gloo)
    results = []
    for group in (mine, theirs):
        x, out = torch.full((5,), float(s.rank)), [torch.zeros(2), torch.zeros(2)]
        dist.all_reduce(x, group=group)
        dist.all_gather(out, torch.full((2,), float(s.rank)), group=group)
        y = torch.full((3,), float(s.rank))
        dist.broadcast(y, s.rank % 2 + 2, group=group)
        results.append((x, out, y))
    torch.testing.assert_close(results[0], results[1])
    assert dist.get_process_group_ranks(mine) == [s.rank % 2, s.rank % 2 + 2]
    if s.rank != 2:
        x = torch.ones(1)
        dist.all_reduce(x, group=back)
        assert x.item() == 3
        assert dist.get_group_rank(back, 3) == dist.get_process_group_ranks(back).index(3)
    inner, _ = dist.new_subgroups(2)
    x = torch.full((1,), float(s.rank))
    dist.all_reduce(x, group=inner)
    assert x.item() == (1 if s.rank < 2 else 5)
    alone = dist.new_group([s.rank], use_local_synchronization=True)
    dist.all_reduce(x, group=alone)
    local = dist.new_group([s.rank % 2, s.rank % 2 + 2], use_local_synchronization=True)
    x = torch.full((1,), float(s.rank))
    dist.all_reduce(x, group=local)
    assert x.item() == 2 * (s.rank % 2) + 2
    split = dist.group.WORLD.split_group([2, 0, 3], group_name="a split")
    if s.rank == 1:
        assert split is None
    else:
        x = torch.full((1,), float(s.rank))
        split.allreduce([x]).wait()
        assert x.item() == 5 and split.group_name == "a split" and (split.rank(), split.size()) == ([1, None, 0, 2][s.rank], 3)
    for group in (mine, local):
        dist.destroy_process_group(group)


def case_handles(s):
    many = [torch.full((k + 1,), float(s.rank)) for k in range(50)]
    works = [dist.all_reduce(x, async_op=True) for x in many]
    for work in works if s.rank % 2 else reversed(works):  # in any order
        assert work.wait(timedelta(seconds=50))
    assert all((x == s.size * (s.size - 1) / 2).all() for x in many)
    assert all(work.is_completed() and work.is_success() and work.exception() is None for work in works)
    seen = []
    work = dist.all_reduce(torch.ones(2), async_op=True)
    future = work.get_future().then(lambda f: seen.append(f.value()[0].sum().item()) or f.value()[0] * 2)
    assert (future.wait() == 2 * s.size).all() and seen == [2 * s.size]
    assert work.get_future() is work.get_future() and (work.result()[0] == s.size).all()

    def again(f):  # a callback that communicates and waits
        x = f.value()[0].clone()
        return dist.all_reduce(x, async_op=True).get_future().wait()[0]

    chained = [dist.all_reduce(torch.ones(3), async_op=True).get_future() for _ in range(1)]
    assert all((future.then(again).wait() == s.size * s.size).all() for future in chained)
    if s.rank == 0:
        import time

        time.sleep(0.5)
    work = dist.barrier(async_op=True)
    if s.rank:
        try:
            work.wait(timedelta(seconds=0.05))
            raise AssertionError("no time-out")
        except RuntimeError as error:
            assert "has not finished after 0.05 s" in str(error), error
    work.wait()


def case_functional(s):
    """The traceable collectives, which call from C++."""
    import torch.distributed._functional_collectives as fc

    def body(group):
        x = torch.arange(8.0) + s.rank
        return [
            fc.all_reduce(x, "sum", group).clone(),
            fc.all_gather_tensor(x, 0, group).clone(),
            fc.reduce_scatter_tensor(x, "sum", 0, group).clone(),
            fc.all_to_all_single(x, None, None, group).clone(),
            fc.broadcast(x, 1, group).clone(),
            *[y.clone() for y in fc.all_reduce_coalesced([x, x * 2], "sum", group)],
            *[y.clone() for y in fc.all_gather_into_tensor_coalesced([x, x * 2], group)],
            *[y.clone() for y in fc.reduce_scatter_tensor_coalesced([x, x * 2], "sum", [0, 0], group)],
        ]

    s.same(body)


def case_sparse(s):
    def body(group):
        where = torch.tensor([[0, s.rank, 2], [1, 1, s.rank]])
        x = torch.sparse_coo_tensor(where, torch.arange(3.0) + s.rank, (4, 5)).coalesce()
        dist.all_reduce(x, group=group)
        return x.to_dense()

    s.same(body)
    rows = torch.sparse_coo_tensor(torch.tensor([[s.rank, 3]]), torch.ones(2, 6), (4, 6))
    dist.all_reduce(rows, ReduceOp.AVG)
    right = torch.full((4, 6), 1 / s.size)
    right[3] = (s.size + 1) / s.size
    torch.testing.assert_close(rows.to_dense(), right)


def case_memory_is_given_back(s):
    """Nobody keeps the tensors of what has ended, not even until garbage is collected."""
    starts = [
        lambda x: dist.all_reduce(x, async_op=True),
        lambda x: dist.broadcast(x, 0, async_op=True),
        lambda x: dist.all_gather_into_tensor(torch.empty(s.size * len(x)), x, async_op=True),
    ]
    gc.disable()
    for start in starts:
        for follow in (lambda work: work.wait(), lambda work: work.get_future().then(lambda ended: ended.value()).wait()):
            x = torch.ones(500_000)
            memory = StorageWeakRef(x.untyped_storage())
            work = start(x)
            follow(work)
            del work, x
            for _ in range(50):
                time.sleep(0.02 * (not memory.expired()))  # the loop's thread may be looking at it
            assert memory.expired()
    gc.enable()


def case_beginning_and_end(s):
    assert dist.get_backend() == "hpcdl" and dist.group.WORLD.group_name
    assert dist.get_world_size() == s.size == 4 and dist.get_rank() == s.rank
    dist.barrier()
    dist.barrier(group=s.new([0, 1])[0]) if s.rank < 2 else s.new([0, 1])


if __name__ == "__main__":
    side.run(globals())

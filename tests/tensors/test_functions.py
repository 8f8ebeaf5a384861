"""Collectives on tensors: values, dtypes, layouts, in place, async; objects."""

import numpy as np
import pytest
from harness.parts import framework

from hpcdl.errors import InvalidArgument

torch = framework("torch")

import hpcdl.torch as ht  # noqa: E402

DTYPES = ["float16", "bfloat16", "float32", "float64", "uint8", "int16", "int64", "uint32", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_values(ranks, dtype):
    kind = getattr(torch, dtype)

    def body(world):
        def tensor(rank, *shape):
            return (torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(shape) % 5 + rank).to(kind)

        n, rank = world.size, world.rank
        mine, everyone = tensor(rank, 3, 4), [tensor(r, 3, 4) for r in range(n)]
        wide = torch.stack([x.double() for x in everyone])
        op, total = ("max", wide.amax(0)) if dtype == "bool" else ("sum", wide.sum(0))
        assert ht.allreduce(mine, op, world=world).equal(total.to(kind))
        assert ht.broadcast(mine, 1, world=world).equal(everyone[1])
        uneven = tensor(rank, rank + 1, 2)
        assert ht.allgather(uneven, world=world).equal(torch.cat([tensor(r, r + 1, 2) for r in range(n)]))
        assert ht.allgather(tensor(rank, 1)[0], world=world).equal(torch.cat([tensor(r, 1) for r in range(n)]))
        assert ht.reduce_scatter(mine, op, world=world).equal(torch.tensor_split(total.to(kind), n)[rank])
        assert ht.alltoall(mine, world=world).equal(torch.cat([torch.tensor_split(x, n)[rank] for x in everyone]))
        assert mine.equal(everyone[rank]), "the input has changed"
        assert ht.allreduce(tensor(rank, 0, 2), op, world=world).shape == (0, 2)
        if dtype != "bool":
            assert ht.allreduce(tensor(rank, 1)[0], world=world) == n * (n - 1) // 2
        ht.barrier(world=world)

    ranks(2, body)
    ranks(4, body)


def test_not_contiguous(ranks):
    def body(world):
        x = torch.arange(12.0).reshape(3, 4).T + world.rank
        total = 2 * torch.arange(12.0).reshape(3, 4).T + 1
        assert ht.allreduce(x, world=world).equal(total)
        assert ht.allgather(x, world=world).equal(torch.cat([x - world.rank, x - world.rank + 1]))
        assert ht.reduce_scatter(x, world=world).equal(total[2 * world.rank : 2 * world.rank + 2])
        half = torch.zeros(4, 6)[:, ::2]
        half += world.rank
        assert ht.broadcast_(half, 1, world=world) is half and (half == 1).all()
        assert ht.allreduce_(x, world=world) is x and x.equal(total)
        handle = ht.allreduce_async_(x, "mean", world=world)
        assert handle.wait() is x and x.equal(total) and handle.wait() is x and handle.done()

    ranks(2, body)


def test_in_place_async_and_options(ranks):
    def body(world):
        p = torch.nn.Parameter(torch.full((5,), float(world.rank)))
        kept = (p * p).sum()
        ht.broadcast_(p, 1, world=world)
        assert p.requires_grad and p.is_leaf and (p == 1).all()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            kept.backward()
        x = torch.full((5,), float(world.rank + 1))
        handles = [ht.allreduce_async(x, op, world=world) for op in ("sum", "max", "product")]
        assert [handle.wait(60)[0].item() for handle in reversed(handles)] == [2, 2, 3] and x[0] == world.rank + 1
        assert ht.allreduce(x, "mean", weight=float(world.rank), world=world)[0] == 2
        third = ht.allreduce(torch.full((100,), 1 / 3), "mean", codec="bf16", collective="ring", name="third", world=world)
        assert 0 < abs(third[0] - 1 / 3) < 0.01 and third.dtype == torch.float32

    ranks(2, body)


def test_errors(ranks):
    def body(world):
        leaf = torch.ones(2, requires_grad=True)
        for wrong, said in [
            (lambda: ht.allreduce(leaf, "max", world=world), "derivative of op 'max' is not defined.*detach"),
            (lambda: ht.reduce_scatter(leaf, "product", world=world), "derivative of op 'product'"),
            (lambda: ht.allreduce_async(leaf, world=world), "allreduce_async has no derivative"),
            (lambda: ht.allreduce(torch.ones(2, dtype=torch.complex64), world=world), "complex64 cannot be reduced"),
            (lambda: ht.broadcast(np.ones(2), world=world), "expected a tensor, got a ndarray"),
            (lambda: ht.broadcast(leaf, 7, world=world), "root must be 0 to 1"),
            (lambda: ht.allreduce(leaf, "summe", world=world), "unknown op"),
        ]:
            with pytest.raises(InvalidArgument, match=said):
                wrong()
        with torch.no_grad():
            assert ht.allreduce(leaf, "max", world=world).equal(torch.ones(2))

    ranks(2, body)


def test_without_init(monkeypatch):
    monkeypatch.setattr("hpcdl.start._world", None)
    with pytest.raises(InvalidArgument, match=r"call hpcdl.torch.init\(\) first"):
        ht.allreduce(torch.ones(1))


def test_objects(ranks):
    def body(world):
        thing = {"rank": world.rank, "list": [None] * 100 * world.rank}
        assert ht.broadcast_object(thing, 1, world=world) == {"rank": 1, "list": [None] * 100}
        assert [each["rank"] for each in ht.allgather_object(thing, world=world)] == [0, 1, 2]
        bad = (lambda: 0) if world.rank == 1 else thing
        for wrong in (lambda: ht.broadcast_object(bad, 1, world=world), lambda: ht.allgather_object(bad, world=world)):
            with pytest.raises(InvalidArgument, match="rank 1 of 3: the object cannot be pickled"):
                wrong()

    ranks(3, body)

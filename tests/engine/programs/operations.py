"""Reductions through Horovod, beside this package's own in the same processes."""

from __future__ import annotations

import numpy as np
import pytest

import hpcdl
from hpcdl.errors import InvalidArgument

world = hpcdl.init(engine="horovod")
rank, size = world.rank, world.size
mine = np.random.default_rng(rank).standard_normal(1000).astype("f4")
everyone = world.allgather(mine[None])


def same_everywhere(x: np.ndarray) -> bool:
    bits = world.allgather(x.view("u1")[None])
    return bool((bits == bits[0]).all())


def dtypes() -> None:
    for dtype in ("f2", "f4", "f8", "i4", "i8", "i1", "u1", "i2", "u4"):
        x = np.arange(10, dtype=dtype) + dtype.startswith("f") * np.array(0.5, dtype)
        assert (world.allreduce(x.copy()) == x * x.dtype.type(size)).all(), dtype
    bfloat16 = hpcdl.codecs.BF16 and np.dtype("bfloat16")
    assert float(world.allreduce(np.full(3, 2, bfloat16), "mean")[0]) == 2
    assert world.allreduce(np.array([rank == 0, True]), "logical_or").all()
    assert (world.allreduce(np.full(3, 2, "i8"), "product") == 2**size).all()


def sizes_and_ops() -> None:
    for n in (0, 1, 3, 1000):
        for op in ("sum", "mean", "max", "min"):
            ours, theirs = world.allreduce(mine[:n].copy(), op, collective="ring"), world.allreduce(mine[:n].copy(), op)
            np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
            assert same_everywhere(theirs), op
    weighted = world.allreduce(mine.copy(), "mean", weight=rank)
    want = np.average(everyone, axis=0, weights=range(size)) if size > 1 else mine * 0
    np.testing.assert_allclose(weighted, want, rtol=1e-4, atol=1e-6)


def not_a_number() -> None:
    x = mine.copy()
    x[rank] = [np.nan, np.inf, -np.inf, np.nan][rank]
    for codec in (None, "fp16"):
        found = world.allreduce(x.copy(), codec=codec)
        assert not np.isfinite(found[:size]).any()
        assert codec or np.isfinite(found[size:]).all()
        assert same_everywhere(found)


def common_exponent() -> None:
    for scale in (1e-38, 1e-30, 1, 65504, 1e30):
        x = (mine * scale).astype("f4")
        exact = np.einsum("rn->n", (everyone * scale).astype("f4").astype("f8"))
        found = world.allreduce(x.copy(), codec="fp16")
        peaks = np.abs(everyone * scale).max(axis=0)
        bound = np.repeat([peaks[i : i + 128].max() for i in range(0, 1000, 128)], 128)[:1000]
        assert (np.abs(found - exact) <= size**2 * 2.0**-11 * bound).all(), scale
        assert same_everywhere(found)
    full = world.allreduce(np.full(300, 65504, "f4"), codec="fp16")
    assert (full == 65504 * size).all(), "the sum has overflowed"
    assert world.allreduce(np.zeros(0, "f4"), codec="fp16").size == 0


def many_at_once() -> None:
    """Handles of different names may start in different orders among their groups, and be waited for in any."""
    other = world.group(range(size))
    handles = [group.allreduce_async(np.full(50, i, "f4"), name=f"number {i}") for i in range(20) for group in (world, other)]
    again = [world.allreduce_async(np.full(7, i, "f4")) for i in range(5)]  # of one name: one after another
    for i in (range(40), reversed(range(40)))[rank % 2]:
        assert (handles[i].wait() == size * (i // 2)).all()
    assert [int(handle.wait()[0]) for handle in again] == [size * i for i in range(5)]
    assert other.engine == "horovod"


def some_ranks() -> None:
    part = world.split(rank // 2)
    assert part is not None and part.engine == ("hpcdl" if size == 4 else "horovod")
    assert (part.allreduce(np.ones(3, "f4")) == part.size).all()
    backwards = world.group(range(size)[::-1])
    assert backwards.engine == ("hpcdl" if size > 1 else "horovod")
    assert (backwards.allreduce(np.ones(3, "f4")) == size).all()


def refusals() -> None:
    with pytest.raises(InvalidArgument, match="Horovod cannot sum the wire of codec 'int8'"):
        world.allreduce(mine.copy(), codec="int8")
    with pytest.raises(InvalidArgument, match="Horovod cannot sum the wire of codec 'fp16' with op 'product'"):
        world.allreduce(mine.copy(), "product", codec="fp16")
    with pytest.raises(InvalidArgument, match="Horovod cannot reduce sum of int16"):
        world.allreduce(np.ones(3, "i2"), collective="horovod")
    with pytest.raises(InvalidArgument, match="error feedback"):
        world.allreduce(mine.copy(), codec="fp16", error_feedback=mine * 0)
    for codec in ("topk", "powersgd:rank=2", "bf16"):
        with pytest.raises(InvalidArgument, match="Horovod cannot sum"):
            hpcdl.Reducer(world, [(3,)], codec=codec)
    hpcdl.Reducer(world, [(3,)], codec="topk", collective="ring").close()
    world.allreduce(mine.copy(), codec="int8", collective="ring")
    with pytest.raises(InvalidArgument, match="'horovod' already"):
        hpcdl.init(engine="hpcdl")
    assert hpcdl.init() is hpcdl.init(engine="horovod") is world


for check in (dtypes, sizes_and_ops, not_a_number, common_exponent, many_at_once, some_ranks, refusals):
    check()
print("passed", flush=True)

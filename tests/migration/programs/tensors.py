"""Horovod's operations on tensors, on four ranks: values, dtypes, handles, derivatives, process sets."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from side import raises, run

import hpcdl.horovod.torch as hvd

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RANKS = range(4)


def mine(n: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Different on each rank."""
    return (torch.arange(n) % 5 + hvd.rank()).to(dtype)


def everyone(n: int = 6) -> torch.Tensor:
    """All ranks' `mine`."""
    return torch.stack([torch.arange(n) % 5 + rank for rank in RANKS]).double()


def case_ranks() -> None:
    assert (hvd.size(), hvd.local_size(), hvd.cross_size(), hvd.cross_rank()) == (4, 4, 1, 0) and hvd.rank() == hvd.local_rank()
    assert hvd.is_initialized() and hvd.is_homogeneous() and hvd.mpi_built() and not hvd.gloo_enabled() and hvd.nccl_built() == 0
    hvd.init()


def case_allreduce() -> None:
    for dtype in (*FLOATS, torch.int32, torch.int64):
        x = mine(dtype=dtype)
        for op, exact in (
            (hvd.Average, everyone().mean(0)),
            (hvd.Sum, everyone().sum(0)),
            (hvd.Min, everyone().amin(0)),
            (hvd.Max, everyone().amax(0)),
            (hvd.Product, everyone().prod(0)),
        ):
            out = hvd.allreduce(x, op=op, name="x")
            assert out.dtype == dtype
            torch.testing.assert_close(out, exact.trunc().to(dtype) if not dtype.is_floating_point else exact.to(dtype))
        torch.testing.assert_close(x, mine(dtype=dtype))
        assert hvd.allreduce_(x, average=False) is x
        torch.testing.assert_close(x, everyone().sum(0).to(dtype))
    scalar = hvd.allreduce(torch.tensor(float(hvd.rank())))
    assert scalar.shape == () and scalar.item() == 1.5
    assert hvd.allreduce(torch.zeros(0)).shape == (0,)


def case_handles() -> None:
    handles = [hvd.allreduce_async(mine() * i, name=f"h{i}", op=hvd.Sum) for i in range(20)]
    for i in reversed(range(20)) if hvd.rank() % 2 else range(20):
        torch.testing.assert_close(hvd.synchronize(handles[i]), everyone().sum(0).float() * i)
    assert isinstance(handles[0], int) and hvd.synchronize(handles[0]) is None
    assert "was not created or has been cleared" in raises(ValueError, lambda: hvd.poll(handles[0]))
    handle = hvd.broadcast_async_(mine(), 1)
    while not hvd.poll(handle):
        pass
    hvd.synchronize(handle)


def case_grouped() -> None:
    tensors = [mine(3), mine(4, torch.float64), mine(100_000), mine(5)]
    outs = hvd.grouped_allreduce(tensors, name="group", op=hvd.Sum)
    for x, out in zip(tensors, outs, strict=True):
        torch.testing.assert_close(out, everyone(len(x)).sum(0).to(x.dtype))
    hvd.grouped_allreduce_(tensors, op=hvd.Sum)
    torch.testing.assert_close(tensors[1], outs[1])
    gathered = hvd.grouped_allgather([mine(2), torch.full((hvd.rank(), 3), 7)])
    assert gathered[0].shape == (8,) and gathered[1].shape == (6, 3)
    parts = hvd.grouped_reducescatter([mine(8), mine(6)], op=hvd.Sum)
    torch.testing.assert_close(torch.cat(list(hvd.allgather(parts[1]).split(1))), everyone().sum(0).float())


def case_compression() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(hvd.rank()))
    exact = hvd.allreduce(x)
    for name in ("none", "fp16", "bf16", "int8", "int8_stochastic"):
        out = hvd.allreduce(x, compression=getattr(hvd.Compression, name))
        assert out.dtype == torch.float32 and (out - exact).abs().max() < 0.1
    assert "known: " in raises(AttributeError, lambda: hvd.Compression.zip)

    class Halves(hvd.Compression.none):
        codec = None

        @staticmethod
        def compress(tensor):
            return tensor.half(), tensor.dtype

        @staticmethod
        def decompress(tensor, ctx):
            return tensor.to(ctx)

    torch.testing.assert_close(hvd.allreduce(x, compression=Halves), exact, atol=1e-2, rtol=1e-2)


def case_movement() -> None:
    for dtype in (*FLOATS, torch.uint8, torch.bool, torch.int64):
        out = hvd.broadcast(mine(dtype=dtype), 2)
        assert out.dtype == dtype
        torch.testing.assert_close(out, (torch.arange(6) % 5 + 2).to(dtype))
    out = hvd.allgather(torch.full((hvd.rank() + 1, 2), hvd.rank()))
    assert out.shape == (10, 2) and out[:, 1].tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    out, received = hvd.alltoall(torch.arange(10) + 100 * hvd.rank(), splits=[1, 2, 3, 4])
    begin = (0, 1, 3, 6)[hvd.rank()]
    assert received.tolist() == [hvd.rank() + 1] * 4 and received.dtype == torch.int32
    assert out.tolist() == [100 * rank + begin + i for rank in RANKS for i in range(hvd.rank() + 1)]
    even = hvd.alltoall(torch.arange(8))
    assert isinstance(even, torch.Tensor) and even.tolist() == [2 * hvd.rank(), 2 * hvd.rank() + 1] * 4
    out = hvd.reducescatter(mine(6), op=hvd.Average)
    torch.testing.assert_close(out, torch.tensor_split(everyone().mean(0).float(), 4)[hvd.rank()])
    rows = torch.sparse_coo_tensor([[hvd.rank(), 3]], [[1.0, 2.0], [4.0, 4.0]], (5, 2))
    dense = hvd.sparse_allreduce_async(rows, "rows", hvd.Average)().to_dense()
    assert dense[3].tolist() == [4.25, 4.5] and dense[0].tolist() == [0.25, 0.5]


def case_derivatives() -> None:
    """Those of the real one: of a loss that is averaged over the ranks."""
    ones = torch.ones(4, requires_grad=True)
    hvd.allreduce(ones, op=hvd.Sum).mul(hvd.rank() + 1).sum().backward()
    assert (ones.grad == 10).all()
    x = torch.ones(hvd.rank() + 1, 2, requires_grad=True)
    hvd.allgather(x).mul(hvd.rank() + 1).sum().backward()
    assert (x.grad == 2.5).all() and x.grad.shape == x.shape
    x = torch.ones(3, requires_grad=True)
    hvd.broadcast(x, 1).mul(hvd.rank() + 1).sum().backward()
    assert (x.grad == (2.5 if hvd.rank() == 1 else 0)).all()
    x = torch.ones(10, requires_grad=True)
    hvd.alltoall(x, splits=[1, 2, 3, 4])[0].mul(hvd.rank() + 1).sum().backward()
    assert x.grad.tolist() == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    x = torch.ones(8, requires_grad=True)
    hvd.reducescatter(x, op=hvd.Sum).mul(hvd.rank() + 1).sum().backward()
    assert x.grad.tolist() == [4, 4, 8, 8, 12, 12, 16, 16]
    x, y = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    outs = hvd.grouped_allreduce([x, y])
    (outs[0].sum() + outs[1].sum() * hvd.rank()).backward()
    assert (x.grad == 1).all() and (y.grad == 1.5).all()


def case_objects() -> None:
    said = hvd.broadcast_object({"epoch": 3} if hvd.rank() == 1 else None, root_rank=1)
    assert said == {"epoch": 3} and hvd.allgather_object("x" * hvd.rank()) == ["", "x", "xx", "xxx"]
    assert "cannot be pickled" in raises(ValueError, lambda: hvd.broadcast_object(threading.Lock(), 2))


def case_process_sets() -> None:
    even, odd = hvd.add_process_set(hvd.ProcessSet([0, 2])), hvd.add_process_set([1, 3])
    mine_ = even if hvd.rank() % 2 == 0 else odd
    assert (
        (even.process_set_id, odd.process_set_id) == (1, 2) and mine_.included() and mine_.size() == 2 and mine_.rank() == hvd.rank() // 2
    )
    out = hvd.allreduce(torch.tensor([float(hvd.rank())]), process_set=mine_, name="x")
    assert out.item() == (1 if hvd.rank() % 2 == 0 else 2)
    assert hvd.broadcast(torch.tensor([hvd.rank()]), mine_.ranks[1], process_set=mine_).item() == mine_.ranks[1]
    assert hvd.allgather(torch.tensor([hvd.rank()]), process_set=mine_).tolist() == mine_.ranks
    raises(ValueError, lambda: hvd.allreduce(torch.ones(1), process_set=odd if mine_ is even else even))
    raises(ValueError, lambda: hvd.broadcast(torch.ones(1), 3 - mine_.ranks[0], process_set=mine_))
    raises(ValueError, lambda: hvd.add_process_set([2, 0]))
    raises(ValueError, lambda: hvd.add_process_set([0, 9]))
    assert hvd.remove_process_set(even) and even.process_set_id is None and not hvd.remove_process_set(even)
    assert not hvd.remove_process_set(hvd.global_process_set)
    again = hvd.add_process_set([0, 2])
    assert again.process_set_id == 3
    if again.included():
        hvd.barrier(process_set=again)
    assert hvd.remove_process_set(again) and hvd.remove_process_set(odd)


def case_join() -> None:
    for step in range(hvd.rank() + 1):
        out = hvd.allreduce(torch.ones(3), name=f"step {step}")
        assert (out == (4 - step) / 4).all()
    assert hvd.join() == 3


def case_disagreement() -> None:
    said = raises(hvd.HorovodInternalError, lambda: hvd.allreduce(torch.ones(2 + hvd.rank() // 3), name="x"))
    assert "ranks 0-2: allreduce(float32 of shape [2], op average); rank 3: allreduce(float32 of shape [3], op average)" in said
    assert set(hvd.allgather_object(said)) == {said}
    for call in (
        lambda: hvd.allreduce(torch.ones(4, 4).t()[1:]),
        lambda: hvd.allreduce(torch.ones(3, dtype=torch.complex64)),
        lambda: hvd.allreduce(torch.ones(3), average=True, op=hvd.Sum),
        lambda: hvd.broadcast(torch.ones(3), 9),
        lambda: hvd.alltoall(torch.ones(5)),
        lambda: hvd.reducescatter(torch.ones(5), op=hvd.Min),
    ):
        raises(ValueError, call)
    hvd.barrier()


def case_timeline() -> None:
    path = Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None)) / "timeline.json"
    hvd.start_timeline(str(path))
    hvd.allreduce(torch.ones(3), name="traced")
    hvd.stop_timeline()
    hvd.barrier()
    assert any(event.get("args", {}).get("name") == "traced" for event in json.loads(path.read_text()))


def case_batch_norm() -> None:
    torch.manual_seed(0)
    whole = torch.randn(16, 3, 5)
    norm, one = hvd.SyncBatchNorm(3), torch.nn.BatchNorm1d(3)
    out = norm(whole[4 * hvd.rank() : 4 * hvd.rank() + 4])
    torch.testing.assert_close(out, one(whole)[4 * hvd.rank() : 4 * hvd.rank() + 4])
    torch.testing.assert_close(norm.running_var, one.running_var)


def case_adasum() -> None:
    rows = np.random.default_rng(1).normal(size=(4, 50))
    pairs = [adasum(rows[0], rows[1]), adasum(rows[2], rows[3])]
    out = hvd.allreduce(torch.tensor(rows[hvd.rank()]), op=hvd.Adasum)
    torch.testing.assert_close(out, torch.tensor(adasum(*pairs)))


def adasum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By the formula of the paper."""
    return (1 - a @ b / (2 * a @ a)) * a + (1 - a @ b / (2 * b @ b)) * b


def case_shutdown() -> None:
    """The last: everything begins anew."""
    hvd.shutdown()
    assert not hvd.is_initialized()
    assert "hvd.init()" in raises(ValueError, hvd.rank)
    hvd.init()
    assert hvd.allreduce(torch.ones(1), op=hvd.Sum).item() == 4


if __name__ == "__main__":
    run(globals())

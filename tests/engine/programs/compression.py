"""A real Horovod's own optimizers with this package's float16."""

from __future__ import annotations

import horovod.torch as hvd
import torch
from torch import nn

import hpcdl
import hpcdl.horovod

hvd.init()
rank, size = hvd.rank(), hvd.size()
scaled = hpcdl.horovod.compression("fp16")


def bound() -> None:
    generator = torch.Generator().manual_seed(rank)
    for scale in (1e-38, 1e-30, 1.0, 6e4, 65504.0 * size, 1e30):
        for dtype in (torch.float32, torch.float64):
            x = (torch.rand(1000, generator=generator, dtype=torch.float64) * 2 - 1).mul(scale).to(dtype)
            exact = hvd.allreduce(x.double(), op=hvd.Average)
            peak = hvd.allreduce(x.abs().max().double(), op=hvd.Max)
            found = hvd.allreduce(x, op=hvd.Average, compression=scaled)
            assert found.dtype == dtype
            assert ((found.double() - exact).abs() <= (size + 1) * 2.0**-11 * peak).all(), (scale, dtype)
            summed = hvd.allreduce(x, op=hvd.Sum, compression=scaled)
            assert summed.isfinite().all()
    full = hvd.allreduce(torch.full((5,), 65504.0), op=hvd.Sum, compression=scaled)
    torch.testing.assert_close(full, torch.full((5,), 65504.0 * size), rtol=size * 2.0**-11, atol=0)


def others() -> None:
    x = torch.ones(8)
    x[rank] = [float("nan"), float("inf"), -float("inf")][rank]
    found = hvd.allreduce(x, op=hvd.Average, compression=scaled)
    assert not found[:size].isfinite().any()
    assert found[size:].tolist() == [1.0] * (8 - size)
    assert hvd.allreduce(torch.full((3,), 2.0).bfloat16(), op=hvd.Average, compression=scaled).tolist() == [2.0] * 3
    assert hvd.allreduce(torch.full((3,), 7), op=hvd.Sum, compression=scaled).tolist() == [7 * size] * 3
    assert hvd.allreduce(torch.zeros(4), op=hvd.Sum, compression=scaled).tolist() == [0.0] * 4
    assert hpcdl.horovod.compression("none") is hvd.Compression.none


class Skips(nn.Module):
    """Each rank may leave out another layer of one shape, and nobody uses the last ones."""

    def __init__(self, unused: int) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.unused = nn.ModuleList(nn.Linear(8, 8) for _ in range(unused))

    def forward(self, x: torch.Tensor, which: int) -> torch.Tensor:
        first, second = (self.left, self.right) if which % 2 else (self.right, self.left)
        hidden = first(x).relu()
        return self.last(second(hidden) * 1e-4 if which < 3 else hidden)


def train(compression: object, skips: bool, **options: object) -> torch.Tensor:
    torch.manual_seed(0)
    model = Skips(unused=3 * skips)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = hvd.DistributedOptimizer(sgd, model.named_parameters(), compression=compression, **options)
    generator = torch.Generator().manual_seed(10 + rank)
    for step in range(8):
        x = torch.randn(4, 8, generator=generator)
        optimizer.zero_grad()
        model(x, (step + rank) % 4 if skips else 1).square().mean().backward()
        optimizer.step()
    found = torch.cat([p.detach().flatten() for p in model.parameters()])
    replicas = hvd.allgather(found[None])
    assert (replicas == replicas[0]).all(), "the replicas differ"
    return found


def training() -> None:
    for skips, options in ((True, {}), (True, {"gradient_predivide_factor": 2.0}), (False, {"groups": 2})):  # its groups skip nothing
        own, plain = hpcdl.horovod.compression("fp16"), train(hvd.Compression.none, skips)
        torch.testing.assert_close(train(own, skips, **options), plain, rtol=2e-3, atol=2e-3)
        assert own._names._parameters, "the optimizer's names were not found"


for check in (bound, others, training):
    check()
print("passed", flush=True)

"""Lossy codecs in Horovod's optimizer, on four ranks that behave as if each were a node: nothing is lost for good."""

from __future__ import annotations

import os
import warnings

import torch
import torch.nn.functional as F  # noqa: N812
from side import raises, run
from torch import nn

import hpcdl.horovod.torch as hvd
import hpcdl.torch as ht

os.environ["HPCDL_NODES"] = "4"  # else the ranks share memory, and encode nothing
COARSE = ("int8", "sign", "topk", "randomk", "powersgd")
FINE = ("fp16", "bf16", "int8_stochastic")
DATA = torch.randn(64, 40, generator=torch.Generator().manual_seed(7))
TARGET = torch.randn(64, 3, generator=torch.Generator().manual_seed(8))


class Plain(hvd.Compression.int8):
    error_feedback = False


class Tenth(hvd.Compression.topk):
    codec = "topk:ratio=0.1"


def lopsided(n: int = 400) -> torch.Tensor:
    """A gradient of which int8 drops all but one element of each block, and the others even more; different on each rank."""
    x = torch.full((n,), 1e-4) * (1 + torch.arange(n) % 7) * (1 + hvd.rank())
    x[::128] = 1.0
    return x


def moved(compression, steps=60, n=400, dtype=torch.float32, **settings) -> tuple[torch.Tensor, object]:
    """What SGD with rate 1 makes of `steps` times the same gradient."""
    p = nn.Parameter(torch.zeros(n, dtype=dtype))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([p], lr=1.0), [("p", p)], compression=compression, **settings)
    for _ in range(steps):
        p.grad = None
        (p * lopsided(n)).sum().backward()
        optimizer.step()
    return p.detach(), optimizer


def owed(optimizer) -> dict[str, torch.Tensor]:
    """What all ranks still hold back, by name of the parameter."""
    gradients = optimizer._gradients
    found = {gradients._names[p]: torch.from_numpy(held.residual.copy()) for p, held in gradients._dropped.items()}
    return {name: hvd.allreduce(x, op=hvd.Sum, name=f"owed {name}") for name, x in sorted(found.items())}


def case_nothing_is_lost() -> None:
    """All that was given equals all that was applied and what is still held back."""
    given = 60 * hvd.allreduce(lopsided())
    for compression in (*(getattr(hvd.Compression, name) for name in COARSE), Tenth):
        found, optimizer = moved(compression)
        torch.testing.assert_close(-found + owed(optimizer)["p"] / 4, given, rtol=1e-4, atol=1e-3)
        everyone = hvd.allgather(found[None])
        assert (everyone == everyone[0]).all()
    assert (moved(Plain)[0][1:100] == 0).all(), "int8 drops what is small"
    with_feedback = moved(hvd.Compression.int8)[0]
    torch.testing.assert_close(-with_feedback, given, rtol=0.1, atol=0.02)


def case_fine_codecs_hold_nothing() -> None:
    given = 60 * hvd.allreduce(lopsided())
    for name in FINE:
        compression = getattr(hvd.Compression, name)
        found, optimizer = moved(compression)
        assert not compression.error_feedback and not optimizer._gradients._dropped
        torch.testing.assert_close(-found, given, rtol=0.01, atol=0.0 if name != "int8_stochastic" else 0.2)


def case_settings() -> None:
    """Groups, several passes, sums, 16-bit and sparse gradients, what was synchronised before: still nothing is lost."""
    shapes = {"a": (300,), "b": (40, 20), "c": (), "d": (0,), "e": (40_000,)}
    for settings in ({}, {"groups": 1}, {"op": hvd.Sum}, {"backward_passes_per_step": 2}, {"gradient_predivide_factor": 2.0}):
        for dtype in (torch.float32, torch.float64) if not settings else (torch.float32,):
            parameters = {name: nn.Parameter(torch.zeros(shape, dtype=dtype)) for name, shape in shapes.items()}
            values = {name: lopsided(p.numel()).to(dtype).view(p.shape) for name, p in parameters.items()}
            sgd = torch.optim.SGD(parameters.values(), lr=1.0)
            optimizer = hvd.DistributedOptimizer(sgd, parameters.items(), compression=hvd.Compression.int8, **settings)
            for step in range(6):
                optimizer.zero_grad()
                for _ in range(settings.get("backward_passes_per_step", 1)):
                    sum((p * values[name]).sum() for name, p in parameters.items()).backward()
                if step % 2:
                    optimizer.synchronize()
                    with optimizer.skip_synchronize():
                        optimizer.step()
                else:
                    optimizer.step()
            share = 4 if settings.get("op") is None else 1
            for name, held in owed(optimizer).items():
                given = 6 * settings.get("backward_passes_per_step", 1) * hvd.allreduce(values[name], op=hvd.Sum) / share
                assert held.dtype == dtype
                torch.testing.assert_close(-parameters[name].detach() + held / share, given, rtol=1e-4, atol=1e-4)
    half, optimizer = moved(hvd.Compression.int8, steps=1, dtype=torch.float16)
    held = owed(optimizer)["p"]
    assert held.dtype == torch.float32
    torch.testing.assert_close(-half + held / 4, hvd.allreduce(lopsided()), atol=1e-3, rtol=0)
    table = nn.Embedding(10, 3, sparse=True)
    for as_dense in (False, True):
        before = table.weight.detach().clone()
        sgd = torch.optim.SGD(table.parameters(), lr=1.0)
        optimizer = hvd.DistributedOptimizer(sgd, table.named_parameters(), compression=hvd.Compression.int8, sparse_as_dense=as_dense)
        table(torch.tensor([hvd.rank(), 9])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        wanted = torch.tensor([0.25] * 4 + [0.0] * 5 + [1.0])[:, None].expand(10, 3)
        torch.testing.assert_close(before - table.weight.detach(), wanted, atol=5e-3, rtol=0)
        assert bool(optimizer._gradients._dropped) == as_dense


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(40, 64), nn.Tanh(), nn.Linear(64, 3))


def mine(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = slice(16 * (step % 4) + 4 * hvd.rank(), 16 * (step % 4) + 4 * hvd.rank() + 4)
    return DATA[rows], TARGET[rows]


def trained(make, steps: int = 60) -> float:
    """The loss on all data in the end."""
    model, step_of = make(net())
    for step in range(steps):
        data, target = mine(step)
        model.zero_grad()
        F.mse_loss(model(data), target).backward()
        step_of()
    everyone = hvd.allgather(torch.cat([p.detach().reshape(-1) for p in model.parameters()])[None])
    assert (everyone == everyone[0]).all()
    return float(F.mse_loss(model(DATA), TARGET))


def case_trains_like_the_own_door() -> None:
    def ours(compression, **settings):
        def make(model):
            sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            return model, hvd.DistributedOptimizer(sgd, model.named_parameters(), compression=compression, **settings).step

        return make

    def own(codec):
        def make(model):
            model = ht.DistributedDataParallel(model, codec=codec, error_feedback=codec != "none")
            return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9).step

        return make

    exact = trained(own("none"))
    for codec in ("int8", "sign", "topk:ratio=0.1", "powersgd"):
        compression = Tenth if codec.startswith("topk") else getattr(hvd.Compression, codec)
        found, wanted = trained(ours(compression)), trained(own(codec))
        assert found < 1.3 * wanted + 0.02, f"{codec}: {found}, by the own door {wanted}, exactly {exact}"
    assert abs(trained(ours(hvd.Compression.fp16)) - exact) < 0.01
    assert abs(trained(ours(hvd.Compression.int8)) - exact) < 0.01


def case_changed() -> None:
    """A parameter that takes another shape, and an optimizer that takes another state, begin anew."""
    _, optimizer = moved(hvd.Compression.int8, steps=3)
    assert owed(optimizer)["p"].abs().max() > 0
    (p,) = optimizer.param_groups[0]["params"]
    optimizer.load_state_dict(optimizer.state_dict())
    assert not optimizer._gradients._dropped
    for n in (400, 130):
        p.data, p.grad = torch.zeros(n), None
        (p * lopsided(n)).sum().backward()
        optimizer.step()
        assert owed(optimizer)["p"].shape == (n,)


def case_process_set() -> None:
    pair = hvd.add_process_set([0, 2])
    found, optimizer = moved(hvd.Compression.int8, process_set=pair)
    if pair.included():
        assert optimizer._gradients._dropped
        torch.testing.assert_close(-found, 60 * hvd.allreduce(lopsided(), process_set=pair), rtol=0.1, atol=0.02)
    else:
        assert not optimizer._gradients._dropped and (found == -sum([lopsided()] * 60)).all()
    hvd.remove_process_set(pair)


def case_bad_numbers() -> None:
    """A NaN is seen in the step that had it, and not again."""
    p = nn.Parameter(torch.zeros(300))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([p], lr=0.0), [("p", p)], compression=hvd.Compression.int8)
    for step in range(3):
        optimizer.zero_grad()
        (p * (float("nan") if step == 1 and hvd.rank() == 2 else 1.0)).sum().backward()
        optimizer.synchronize()
        assert bool(p.grad.isnan().any()) == (step == 1)
        with optimizer.skip_synchronize():
            optimizer.step()
        p.data.zero_()


def case_scattered() -> None:
    """A part of a sum travels encoded too, and has no memory; whole numbers as they are."""
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(hvd.rank()))
    exact = hvd.reducescatter(x, op=hvd.Sum, prescale_factor=0.5)
    for name, bound in (("fp16", 0.01), ("int8", 0.2)):
        compression = getattr(hvd.Compression, name)
        out = hvd.reducescatter(x, op=hvd.Sum, prescale_factor=0.5, compression=compression)
        assert 0 < (out - exact).abs().max() < bound
        both = hvd.grouped_reducescatter([x, x.half()], compression=compression, op=hvd.Sum)
        assert both[1].dtype == torch.float16 and (both[0] - 2 * exact).abs().max() < 2 * bound > (both[1] - 2 * exact).abs().max()
    assert hvd.reducescatter(torch.arange(8), op=hvd.Sum, compression=hvd.Compression.int8).tolist() == [8 * hvd.rank(), 8 * hvd.rank() + 4]
    assert "from step to step" in raises(ValueError, lambda: hvd.reducescatter(x, compression=hvd.Compression.topk))
    said = raises(hvd.HorovodInternalError, lambda: hvd.reducescatter(x, compression=hvd.Compression.fp16 if hvd.rank() else Plain))
    assert "rank 0: reducescatter(float32 of shape [4000, 2], op average, codec int8); ranks 1-3: " in said, said


def case_where_it_cannot_be() -> None:
    parameters = [("p", nn.Parameter(torch.zeros(3)))]

    def made(**settings):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            hvd.DistributedOptimizer(torch.optim.SGD([p for _, p in parameters], lr=1.0), parameters, **settings)
        return [str(one.message) for one in told]

    assert "for Average and Sum, not Max" in made(compression=hvd.Compression.int8, op=hvd.Max)[0]
    assert not made(compression=hvd.Compression.int8, op=hvd.Adasum) and not made(compression=hvd.Compression.fp16, op=hvd.Max)
    assert "by op sum or mean" in raises(ValueError, lambda: made(compression=hvd.Compression.topk, op=hvd.Min))
    assert "from step to step" in raises(ValueError, lambda: hvd.allreduce(torch.ones(3), compression=hvd.Compression.sign))
    unlike = Plain if hvd.rank() == 1 else hvd.Compression.int8
    said = raises(hvd.HorovodInternalError, lambda: moved(unlike, steps=1))
    assert "codec int8 with error feedback" in said and "rank 1: allreduce(float32 of shape [400], op average, codec int8);" in said, said
    hvd.barrier()


def case_join() -> None:
    """Ranks without data take part with zeros, and keep what they hold; the last, since here each rank does another number of steps."""
    for compression in (hvd.Compression.int8, hvd.Compression.powersgd, hvd.Compression.randomk, hvd.Compression.sign):
        p = nn.Parameter(torch.zeros(40, 40))
        optimizer = hvd.DistributedOptimizer(torch.optim.SGD([p], lr=1.0), [("p", p)], compression=compression)
        for _ in range(1 + hvd.rank()):
            optimizer.zero_grad()
            (p * lopsided(1600).view(40, 40)).sum().backward()
            optimizer.step()
        assert optimizer._gradients._dropped and p.isfinite().all()
        assert hvd.join() == 3


run(globals())

"""PyTorch training that ends half way and goes on: model, optimizer, scheduler, loader; and tensors of every dtype."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext

import pytest
from harness.parts import framework

import hpcdl
from hpcdl.checkpoint import Checkpoint, RandomStates, preemption
from hpcdl.checkpoint.bundle import dump, load, merged, snapshot
from hpcdl.errors import DataError

torch = framework("torch")

DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn", "bool", "uint8", "int8", "int64"]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_tensors(name, shape) -> None:
    import hpcdl.torch  # noqa: F401  (which makes tensors known)

    x = torch.arange(6).reshape(3, 2)[: shape[0] if shape else 1].reshape(-1)[: 6 if shape else 1].reshape(shape).to(getattr(torch, name))
    found = merged([load(dump(snapshot({"x": x, "t": [x.T if x.ndim == 2 else x]})))])
    assert same(found["x"], x) and same(found["t"][0], x.T if x.ndim == 2 else x)


def test_a_dict_of_tensors_is_overwritten_in_place(ranks, shared_path) -> None:
    import hpcdl.torch  # noqa: F401

    def body(world) -> None:
        module = torch.nn.Linear(3, 2)
        with Checkpoint(shared_path, world, {"model": dict(module.named_parameters())}) as one:
            before = module.weight.detach().clone()
            one.save(1)
            one.wait()
            torch.nn.init.zeros_(module.weight)
            assert one.restore() == 1 and module.weight.any()
            assert world.rank or torch.equal(module.weight, before)
        with (
            Checkpoint(shared_path, world, {"model": dict(torch.nn.Linear(3, 5).named_parameters())}) as two,
            pytest.raises(DataError, match=r"model/weight is torch.float32 of shape \[5, 3\] here, and torch.float32 of shape \[2, 3\]"),
        ):
            two.restore()

    ranks(2, body)


def test_a_module_goes_on_as_a_distributed_one(ranks, shared_path) -> None:
    import hpcdl.torch as ht

    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": (plain := torch.nn.Linear(3, 2))}) as one:
            one.save(1)
        model = ht.DistributedDataParallel(torch.nn.Linear(3, 2), world=world)
        with Checkpoint(shared_path, world, {"model": model}) as two:
            assert two.restore() == 1
        if world.rank == 0:
            assert torch.equal(model.module.weight, plain.weight)

    ranks(2, body)


def same(a, b) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.to(torch.complex128), b.to(torch.complex128))


def train(world, codec, folder=None, ends_after=None):
    """Losses and final parameters, and what was left to do at first."""
    import hpcdl.torch as ht

    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(50, 6), torch.randint(0, 3, (50,)))
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.LayerNorm(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))
    model = ht.DistributedDataParallel(model, world=world, codec=codec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    loader = ht.loader(data, batch_size=8, world=world)
    losses, counts = [], {"epoch": 0}
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader, "counts": counts, "random": RandomStates()}
    checkpoint = None if folder is None else Checkpoint(folder, world, parts)
    step = first = 0 if checkpoint is None else checkpoint.restore() or 0
    if ends_after == 0:
        checkpoint.save(step + 1)  # so that it is the newest
        checkpoint.close()
        return [], {}
    with preemption(world, checkpoint) if checkpoint else nullcontext() as stop:
        while counts["epoch"] < 3:
            for x, y in loader:
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                losses.append(loss.item())
                step += 1
                if ends_after and step - first == ends_after - 1 and world.rank == world.size - 1:
                    os.kill(os.getpid(), signal.SIGUSR1)
                if stop is not None:
                    try:
                        stop(step)
                    except SystemExit as end:
                        assert end.code == hpcdl.REQUEUE and checkpoint.saved == step
                        assert step - first in (ends_after, ends_after + 1)  # a thread of a library's may have taken the signal, later
                        return losses, model.state_dict()
            counts["epoch"] += 1
    if checkpoint is not None:
        checkpoint.close()
    return losses, model.state_dict()


@pytest.mark.ways("mpi")  # threads share one random state
@pytest.mark.parametrize("codec", [None, "int8", "topk:ratio=0.1", "powersgd:rank=1"])
def test_resumed(ranks, shared_path, codec) -> None:
    """In the midst of an epoch, by a signal to one rank. Bitwise: what a codec has dropped and kept comes back, and random numbers; also
    where it is saved again before the first step.
    """

    def body(world) -> None:
        losses, whole = train(world, codec)
        first, _ = train(world, codec, shared_path, 10)
        train(world, codec, shared_path, 0)
        rest, found = train(world, codec, shared_path)
        assert first + rest == losses
        assert list(found) == list(whole) and all(torch.equal(found[name], whole[name]) for name in whole)

    ranks(2, body)


def test_of_another_model(ranks, shared_path) -> None:
    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": torch.nn.Linear(3, 4)}) as one:
            one.save(1)
        with (
            Checkpoint(shared_path, world, {"model": torch.nn.Linear(3, 5)}) as two,
            pytest.raises(DataError, match=r"'model' does not take what was saved: RuntimeError: [^$]*size mismatch for weight"),
        ):
            two.restore()

    ranks(2, body)

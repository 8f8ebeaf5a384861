"""NumPy training that ends half way and goes on: bitwise what it would have been, and on other numbers of ranks as well."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdl.checkpoint import Checkpoint
from hpcdl.errors import DataError
from hpcdl.numpy import MLP, Trainer

DATA = np.random.default_rng(0)
X, Y = DATA.normal(size=(203, 12)).astype(np.float32), DATA.integers(0, 4, 203)
EPOCHS, STEPS = 3, 3 * 7  # 203 samples in batches of 32


class Ended(Exception):
    """The job's time is over."""


def trained(world, codec, folder=None, ends_after=None, optimizer="adam", save_every=4):
    """Parameters and losses of a training, which ends after so many steps of this run."""
    trainer = Trainer(world, MLP((12, 64, 4), seed=1), optimizer=optimizer, codec=codec)
    if folder is None:
        return trainer, trainer.fit(X, Y, batch_size=32, epochs=EPOCHS)
    step, count = trainer.step, 0

    def counted(x, y):
        nonlocal count
        if count == ends_after:
            raise Ended
        count += 1
        return step(x, y)

    trainer.step = counted
    checkpoint = Checkpoint(folder, world, {"trainer": trainer})
    losses = None
    try:
        losses = trainer.fit(X, Y, batch_size=32, epochs=EPOCHS, checkpoint=checkpoint, save_every=save_every)
    except Ended:
        pass
    checkpoint.close()
    return trainer, losses


def test_resumed_between_two_passes(ranks, shared_path) -> None:
    """The loss of the pass that was just done is kept."""

    def body(world) -> None:
        _, losses = trained(world, None)
        trained(world, None, shared_path, 8, save_every=7)
        assert trained(world, None, shared_path, save_every=7)[1] == losses

    ranks(2, body)


@pytest.mark.parametrize("codec", [None, "int8", "powersgd:rank=2", "randomk:ratio=0.2", "topk:ratio=0.1"])
@pytest.mark.parametrize("n", [1, 3])
def test_resumed(ranks, shared_path, codec, n) -> None:
    """In the midst of a pass; twice; and once more when all is done."""

    def body(world) -> None:
        whole, losses = trained(world, codec)
        for ends_after in (6, 13, None, None):
            part, found = trained(world, codec, shared_path, ends_after)
        assert found == losses
        for a, b in zip(whole.model.parameters, part.model.parameters, strict=True):
            assert a.tobytes() == b.tobytes()
        for a, b in zip(whole.reducer.residuals or (), part.reducer.residuals or (), strict=True):
            assert a.tobytes() == b.tobytes()

    ranks(n, body)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop"])
def test_each_optimizer(ranks, shared_path, optimizer) -> None:
    def body(world) -> None:
        whole, losses = trained(world, "fp16", optimizer=optimizer)
        trained(world, "fp16", shared_path, 10, optimizer)
        part, found = trained(world, "fp16", shared_path, optimizer=optimizer)
        assert found == losses
        assert all(a.tobytes() == b.tobytes() for a, b in zip(whole.model.parameters, part.model.parameters, strict=True))

    ranks(2, body)


def test_on_fewer_ranks(ranks, shared_path) -> None:
    """Without a codec it is the same training; what a codec has dropped is shared out, so that none of it is lost."""

    def body(world) -> None:
        whole, losses = trained(world, None)
        trained(world, None, shared_path / "exact", 10)
        before, _ = trained(world, "topk:ratio=0.1", shared_path / "sparse", 8)
        dropped = [world.allreduce(x.copy()) for x in before.reducer.residuals]
        fewer = world.group([0, 1]) if world.rank < 2 else None
        if fewer is not None:
            part, found = trained(fewer, None, shared_path / "exact")
            assert np.allclose(found, losses, rtol=1e-5)
            for a, b in zip(whole.model.parameters, part.model.parameters, strict=True):
                assert np.allclose(a, b, rtol=1e-4, atol=1e-5)
            trainer = Trainer(fewer, MLP((12, 64, 4)), codec="topk:ratio=0.1")
            with Checkpoint(shared_path / "sparse", fewer, {"trainer": trainer}) as checkpoint:
                assert checkpoint.restore() == 8
            for x, total in zip(trainer.reducer.residuals, dropped, strict=True):
                assert np.allclose(fewer.allreduce(x.copy()), total, rtol=1e-5, atol=1e-6) and total.any()
        world.barrier()

    ranks(4, body)


def test_of_another_model_or_optimizer(ranks, shared_path) -> None:
    def body(world) -> None:
        trained(world, None, shared_path)
        others = [(32, "adam", r"of another model: .*\[12, 32\] here"), (64, "sgd", "the optimizer Adam, and here is SGD")]
        for width, optimizer, said in others:
            trainer = Trainer(world, MLP((12, width, 4)), optimizer=optimizer)
            with Checkpoint(shared_path, world, {"trainer": trainer}) as checkpoint, pytest.raises(DataError, match=said):
                checkpoint.restore()

    ranks(2, body)

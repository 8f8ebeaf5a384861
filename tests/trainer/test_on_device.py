"""The trainer on device arrays (the double of CuPy): the host's result, and nothing converted to the host on the way."""

import numpy as np
import pytest
from device.conftest import installed
from device.fake_cupy import Machine
from device.places import own_stream

from hpcdl.numpy import LOSSES, MLP, OPTIMIZERS, Trainer, evaluate
from hpcdl.world import World


def trained(world, x, y, loss, optimizer):
    trainer = Trainer(world, MLP((6, 8, 3), seed=1, like=x), loss, optimizer, codec="fp16", collective="ring")
    return trainer, trainer.fit(x, y, batch_size=5, epochs=2), evaluate(trainer.model, trainer.loss, x, y, world)


@pytest.mark.ways("threads")
@pytest.mark.parametrize("loss", LOSSES.names())
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_the_same_as_on_the_host(ranks, loss, optimizer):
    random = np.random.default_rng(0)
    x = random.normal(size=(12, 6)).astype(np.float32)
    y = random.integers(0, 3, 12) if loss == "cross_entropy" else random.uniform(size=(12, 3)).astype(np.float32)

    def body(world):
        with own_stream(cupy, world):
            device, losses, score = trained(world, cupy.asarray(x), cupy.asarray(y), loss, optimizer)
            parameters = [parameter.get() for parameter in device.model.parameters]
            assert all(isinstance(parameter, cupy.ndarray) for parameter in device.model.parameters)
        host, expected, expected_score = trained(world, x, y, loss, optimizer)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        for on_device, on_host in zip(parameters, host.model.parameters, strict=True):
            np.testing.assert_allclose(on_device, on_host, atol=1e-5)
        assert score.accuracy == expected_score.accuracy

    with installed(Machine(deferred=False)) as cupy:
        ranks(2, body)
        assert not cupy.machine.implicit, cupy.machine.implicit


def test_a_world_of_one():
    with installed(Machine(deferred=False)) as cupy:
        x, y = cupy.asarray(np.eye(6, dtype=np.float32)), cupy.asarray(np.arange(6) % 3)
        _, losses, _ = trained(World.solo(), x, y, "cross_entropy", "adam:lr=0.05")
        assert losses[1] < losses[0] and not cupy.machine.implicit

"""Optimizers: against scalar versions of the published formulas, written with other words."""

import math

import numpy as np
import pytest

from hpcdl.errors import InvalidArgument, UnknownName
from hpcdl.numpy import OPTIMIZERS

GRADIENTS = [0.5, -2.0, 0.25, 3.0, -0.125]


def sgd(p, lr):
    for g in GRADIENTS:
        p = p - lr * g
    return p


def momentum(p, lr, beta=0.9):
    # Unrolled: the velocity at step t is sum over s <= t of beta^(t-s) g_s.
    for t in range(len(GRADIENTS)):
        p = p - lr * sum(beta ** (t - s) * GRADIENTS[s] for s in range(t + 1))
    return p


def rmsprop(p, lr, rho=0.9, eps=1e-7):
    for t, g in enumerate(GRADIENTS):
        mean_square = (1 - rho) * sum(rho ** (t - s) * GRADIENTS[s] ** 2 for s in range(t + 1))
        p = p - lr * g / (math.sqrt(mean_square) + eps)
    return p


def adam(p, lr, b1=0.9, b2=0.999, eps=1e-8):
    for t in range(1, len(GRADIENTS) + 1):
        m = sum((1 - b1) * b1 ** (t - s) * GRADIENTS[s - 1] for s in range(1, t + 1)) / (1 - b1**t)
        v = sum((1 - b2) * b2 ** (t - s) * GRADIENTS[s - 1] ** 2 for s in range(1, t + 1)) / (1 - b2**t)
        p = p - lr * m / (math.sqrt(v) + eps)
    return p


@pytest.mark.parametrize(("name", "formula"), [("sgd", sgd), ("momentum", momentum), ("rmsprop", rmsprop), ("adam", adam)])
@pytest.mark.parametrize("lr", [0.1, 0.003])
def test_steps_are_the_published_ones(name, formula, lr):
    optimizer = OPTIMIZERS.get(f"{name}:lr={lr}")
    parameters = [np.full((2, 3), 1.5), np.full(4, -0.5)]
    for g in GRADIENTS:
        optimizer.step(parameters, [np.full_like(p, g) for p in parameters])
    np.testing.assert_allclose(parameters[0], formula(1.5, lr), rtol=1e-12)
    np.testing.assert_allclose(parameters[1], formula(-0.5, lr), rtol=1e-12)


def test_every_registered_optimizer_has_a_formula_here():
    assert set(OPTIMIZERS) == {"sgd", "momentum", "rmsprop", "adam"}


def test_adams_first_step_is_lr_whatever_the_gradient():
    for gradient in (1e-4, 1.0, 1e4):
        parameter = np.zeros(1)
        OPTIMIZERS.get("adam:lr=0.01").step([parameter], [np.array([gradient])])
        assert parameter[0] == pytest.approx(-0.01, rel=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_in_place_in_float32_and_gradients_untouched(name):
    parameter, gradient = np.ones(3, np.float32), np.full(3, 0.5, np.float32)
    before = parameter
    optimizer = OPTIMIZERS.get(name)
    optimizer.step([parameter], [gradient])
    optimizer.step([parameter], [gradient])
    assert before is parameter and parameter.dtype == np.float32 and (parameter < 1).all() and (gradient == 0.5).all()


@pytest.mark.parametrize("spec", ["sgd:lr=0", "adam:lr=-1", "adam:lr=1e999", "adam:lr=fast", "momentum:beta=1", "rmsprop:rho=-0.1"])
def test_bad_parameters_are_refused(spec):
    with pytest.raises(InvalidArgument, match="must be"):
        OPTIMIZERS.get(spec)


def test_unknown_names():
    with pytest.raises(UnknownName, match="known: adam, momentum, rmsprop, sgd"):
        OPTIMIZERS.get("adagrad")
    with pytest.raises(InvalidArgument, match="speed"):
        OPTIMIZERS.get("sgd:speed=3")

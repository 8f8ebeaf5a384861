"""Losses: against finite differences in float64, against plain formulas, and at the edges."""

import numpy as np
import pytest

from hpcdl.errors import InvalidArgument, UnknownName
from hpcdl.numpy import LOSSES


def batch(name, n=7, k=5, dtype="float64"):
    random = np.random.default_rng(3)
    output = (2 * random.normal(size=(n, k))).astype(dtype)
    if name == "cross_entropy":
        return output, random.integers(0, k, n)
    if name == "binary_cross_entropy":
        return output, random.uniform(size=(n, k)).round(1).astype(dtype)
    return output, random.normal(size=(n, k)).astype(dtype)


@pytest.mark.parametrize("name", LOSSES.names())
def test_gradient_is_that_of_the_value(name):
    loss = LOSSES.get(name)
    output, target = batch(name)
    _, gradient = loss(output, target)
    step = 1e-6
    for i in np.ndindex(output.shape):
        shifted = output.copy()
        shifted[i] += step
        above, _ = loss(shifted, target)
        shifted[i] -= 2 * step
        below, _ = loss(shifted, target)
        assert gradient[i] == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES.names())
def test_value_is_the_formula(name):
    output, target = batch(name)
    if name == "cross_entropy":
        softmax = np.exp(output) / np.exp(output).sum(1, keepdims=True)
        expected = np.mean([-np.log(softmax[i, t]) for i, t in enumerate(target)])
    elif name == "binary_cross_entropy":
        p = 1 / (1 + np.exp(-output))
        expected = -np.mean(target * np.log(p) + (1 - target) * np.log(1 - p))
    else:
        expected = np.mean((output - target) ** 2)
    assert LOSSES.get(name)(output, target)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES.names())
def test_the_mean_over_samples_joins_by_weight(name):
    """What data parallelism stands on: the batch's loss and gradient are the shards', weighted by their sizes."""
    loss = LOSSES.get(name)
    output, target = batch(name)
    value, gradient = loss(output, target)
    parts = [(part, *loss(output[part], target[part])) for part in (slice(0, 2), slice(2, 2), slice(2, 7))]
    assert value == pytest.approx(sum(v * len(output[p]) for p, v, _ in parts) / 7)
    np.testing.assert_allclose(gradient, np.concatenate([g * len(output[p]) / 7 for p, _, g in parts]), rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES.names())
def test_no_samples_cost_nothing(name):
    loss = LOSSES.get(name)
    output, target = batch(name, n=0)
    value, gradient = loss(output, target)
    assert value == 0 and gradient.shape == output.shape


@pytest.mark.parametrize("name", LOSSES.names())
def test_float32_stays_float32(name):
    value, gradient = LOSSES.get(name)(*batch(name, dtype="float32"))
    assert value.dtype == gradient.dtype == np.float32


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_huge_logits_do_not_overflow(name):
    output = np.array([[1e4, -1e4]], np.float32)
    target = np.array([1]) if name == "cross_entropy" else np.array([[0.0, 1.0]], np.float32)
    value, gradient = LOSSES.get(name)(output, target)
    assert np.isfinite(gradient).all()
    assert value == pytest.approx(2e4 if name == "cross_entropy" else 1e4)


def test_correct_counts_samples():
    assert LOSSES.get("cross_entropy").correct(np.array([[1.0, 2], [3, 0], [0, 1]]), np.array([1, 0, 0])) == 2
    assert LOSSES.get("binary_cross_entropy").correct(np.array([[1.0, -2], [3, 1]]), np.array([[1.0, 0], [1, 0]])) == 1
    assert np.isnan(LOSSES.get("mean_squared_error").correct(np.zeros((1, 1)), np.zeros((1, 1))))


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("cross_entropy", np.array([0, 3]), "from 0 to 3"),
        ("cross_entropy", np.array([-1, 0]), "from -1 to 0"),
        ("cross_entropy", np.array([0.0, 1.0]), "integers"),
        ("binary_cross_entropy", np.array([[0.0, 1.5, 0]]), "between 0 and 1"),
        ("binary_cross_entropy", np.array([0.0, 1.0]), "shape"),
        ("mean_squared_error", np.array([1.0, 2.0]), "shape"),
    ],
)
def test_targets_that_cannot_be_are_refused(name, target, says):
    with pytest.raises(InvalidArgument, match=says):
        LOSSES.get(name).check(target, 3)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "mean_squared_error"])
def test_a_column_against_a_row_is_no_broadcast(name):
    with pytest.raises(InvalidArgument, match="must be the same"):
        LOSSES.get(name)(np.zeros((4, 1)), np.zeros(4))


def test_unknown_name_lists_the_known():
    with pytest.raises(UnknownName, match=r"unknown loss 'hinge'; known: binary_cross_entropy, cross_entropy, mean_squared_error"):
        LOSSES.get("hinge")

"""The network: gradients against finite differences, their order, and its edges."""

import numpy as np
import pytest

from hpcdl.errors import InvalidArgument
from hpcdl.numpy import LOSSES, MLP


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("sizes", [(4, 3), (4, 6, 3), (4, 6, 5, 3)])
def test_parameter_gradients_against_finite_differences(name, sizes):
    random = np.random.default_rng(0)
    model, loss = MLP(sizes, seed=1, dtype="float64"), LOSSES.get(name)
    for bias in model.parameters[1::2]:
        bias[:] = random.normal(size=bias.shape)
    x = random.normal(size=(5, 4))
    y = random.integers(0, 3, 5) if name == "cross_entropy" else random.uniform(size=(5, 3))
    gradients = [np.full_like(p, np.nan) for p in model.parameters]
    output, inputs = model.forward(x)
    model.backward(inputs, loss(output, y)[1], gradients)

    def value():
        return loss(model.forward(x)[0], y)[0]

    step = 1e-6
    for parameter, gradient in zip(model.parameters, gradients, strict=True):
        for i in np.ndindex(parameter.shape):
            parameter[i] += step
            above = value()
            parameter[i] -= 2 * step
            below = value()
            parameter[i] += step
            assert gradient[i] == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-8)


def test_ready_comes_from_the_last_layer_to_the_first_and_after_the_gradient():
    model = MLP((3, 4, 2))
    gradients = [np.full_like(p, np.nan) for p in model.parameters]
    seen = []

    def ready(i):
        assert np.isfinite(gradients[i]).all()
        seen.append(i)

    output, inputs = model.forward(np.ones((2, 3), np.float32))
    model.backward(inputs, np.ones_like(output), gradients, ready)
    assert seen == [3, 2, 1, 0]


def test_no_samples_give_zero_gradients():
    model = MLP((3, 4, 2))
    gradients = [np.full_like(p, np.nan) for p in model.parameters]
    output, inputs = model.forward(np.empty((0, 3), np.float32))
    model.backward(inputs, output, gradients)
    assert all((g == 0).all() for g in gradients)


def test_a_seed_is_a_network():
    one, same, other = MLP((9, 5, 2), seed=4), MLP((9, 5, 2), seed=4), MLP((9, 5, 2), seed=5)
    for a, b, c in zip(one.parameters[::2], same.parameters[::2], other.parameters[::2], strict=True):
        assert (a == b).all() and (a != c).any() and a.dtype == np.float32
    wide = MLP((400, 300), seed=0).parameters[0]
    assert wide.std() == pytest.approx((2 / 400) ** 0.5, rel=0.02)


def test_forward_leaves_its_input_alone():
    x = np.ones((2, 3), np.float32)
    MLP((3, 4, 2)).forward(x)
    assert (x == 1).all()


@pytest.mark.parametrize(("sizes", "dtype"), [((3,), "float32"), ((3, 0, 2), "float32"), ((3, 2), "float16")])
def test_bad_networks_are_refused(sizes, dtype):
    with pytest.raises(InvalidArgument):
        MLP(sizes, dtype=dtype)

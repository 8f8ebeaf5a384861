"""Every wire format has the bytes that the host gives it, and gives the values that the host reads from it."""

import numpy as np
import pytest
from device.places import same
from device.test_codecs import FORMATS, LOSSY, inputs

from hpcdl.arrays.gpu import Gpu

SIZES = [1, 127, 128, 129, 1000, 100_003, (1 << 22) + 5]


def on_both(codec, x, cupy):
    wire, out = np.empty(codec.nbytes(x.size), "u1"), np.empty(x.size, "f4")
    codec.encode(x, wire)
    codec.decode(wire, out)
    with Gpu(0):
        there, back = cupy.empty(wire.size, "u1"), cupy.empty(x.size, "f4")
        codec.encode(cupy.asarray(x), there)
        codec.decode(there, back)
        assert there.get().tobytes() == wire.tobytes()
        same(back.get(), out)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("x", [pytest.param(x, id=label) for label, x in inputs()])
def test_hard_values(cupy, name, x):
    on_both(FORMATS[name], np.ascontiguousarray(x, "f4"), cupy)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("n", SIZES)
def test_sizes(cupy, name, n):
    random = np.random.default_rng(n)
    on_both(FORMATS[name], (random.normal(size=n) * 2.0 ** random.integers(-20, 20, n)).astype("f4"), cupy)


@pytest.mark.parametrize("name", LOSSY)
def test_every_exponent(cupy, name):
    """Random bits: all exponents, subnormal numbers, NaN and infinity among them."""
    x = np.random.default_rng(5).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view("f4")
    x[np.isnan(x)] = np.nan  # what else a NaN says may differ
    on_both(FORMATS[name], x, cupy)

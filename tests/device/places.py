"""Where a rank's arrays are in these tests: its own device, and a stream that waits for no other."""

from contextlib import ExitStack, contextmanager

import numpy as np


@contextmanager
def own_stream(cupy, world):
    """A device and a non-blocking stream for this rank: nothing is in order by accident."""
    with ExitStack() as stack:
        stack.enter_context(cupy.cuda.Device(world.rank % cupy.machine.devices))
        stack.enter_context(cupy.cuda.Stream(non_blocking=True))
        yield


def up(cupy, x):
    """A NumPy array on the current device."""
    return cupy.asarray(x)


def same(one, other):
    """The same dtype, shape and bits (any NaN is as good as another: a GPU makes other ones)."""
    one, other = np.asarray(one), np.asarray(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    if one.dtype.kind in "fV":
        nan = np.isnan(one)
        assert (nan == np.isnan(other)).all(), "NaN in other places"
        one, other = np.where(nan, np.zeros((), one.dtype), one), np.where(nan, np.zeros((), one.dtype), other)
    assert one.tobytes() == other.tobytes()


def gradient(rank, n, dtype="float32"):
    """Values of very different sizes, another array on each rank."""
    random = np.random.default_rng((rank, n))
    x = random.normal(size=n) * 2.0 ** random.integers(-9, 9, n)
    return x.astype(dtype)

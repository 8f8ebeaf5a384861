"""Tests that need a GPU. One is enough: ranks share it; with several, each rank has one of its own as far as they go."""

import functools

import numpy as np
import pytest

from hpcdl.arrays.gpu import Gpu, why_no_gpu

_SPIN = r"""
extern "C" __global__ void spin(volatile const int* stop, long long most) {
    for (long long begin = clock64(); !*stop && clock64() - begin < most;) {}
}
"""


def pytest_report_header(config):
    trouble = why_no_gpu()
    if trouble:
        return f"GPU: none ({trouble})"
    gpu = Gpu(0)
    return f"GPU: {gpu.count} x {gpu.name}, {', '.join(f'{name} {version}' for name, version in gpu.versions().items())}"


@pytest.fixture
def cupy(require):
    """CuPy, where it has a GPU."""
    return require("gpu")


@pytest.fixture
def busy(cupy):
    """``busy()`` keeps the current stream at work, until ``stop()`` of what it gives, or for some seconds.

    To load a kernel, or to ask for fresh memory, may wait for the device: whoever tests that something goes on meanwhile does all of it
    once before, with a ``busy()`` that is stopped at once.
    """
    return lambda: _Busy(cupy)


@functools.cache
def _spin(cupy):
    return cupy.RawKernel(_SPIN, "spin")


class _Busy:
    def __init__(self, cupy):
        self._memory = cupy.cuda.alloc_pinned_memory(4)  # the kernel reads it where it lies
        self._flag = np.frombuffer(self._memory, "i4", count=1)
        self._flag[0] = 0
        _spin(cupy)((1,), (1,), (np.uint64(self._memory.ptr), np.int64(10_000_000_000)))
        self._end = cupy.cuda.Event(disable_timing=True)
        self._end.record(cupy.cuda.get_current_stream())

    @property
    def over(self):
        return self._end.done

    def stop(self):
        self._flag[0] = 1
        self._end.synchronize()

"""The one seam between this package and array libraries: NumPy on the host, CuPy on a GPU.

``of(x)`` gives the library that `x` belongs to. CuPy is touched only if the caller has imported it already.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..errors import InvalidArgument
from .dtypes import BFLOAT16, accumulator, dtype_of, is_floating, kind_of
from .host import HOST
from .library import Array, Arrays, Event
from .queue import Queue
from .trouble import explained, hint

__all__ = [
    "BFLOAT16",
    "HOST",
    "Array",
    "Arrays",
    "Event",
    "accumulator",
    "adopt",
    "device_name",
    "dtype_of",
    "is_array",
    "is_floating",
    "kind_of",
    "of",
    "on_host",
    "queue_in",
]


def of(x: Any) -> Arrays:
    """The array library that `x` belongs to. Raises InvalidArgument for anything that is no array."""
    if isinstance(x, np.ndarray):
        return HOST
    if _is_cupy(x):
        from .device import DEVICE

        return DEVICE
    raise InvalidArgument(f"expected a NumPy or CuPy array, got {type(x).__name__}; wrap it in numpy.asarray(…)")


def is_array(x: Any) -> bool:
    """Whether `of` knows the library of `x`."""
    return isinstance(x, np.ndarray) or _is_cupy(x)


def on_host(x: Array) -> Array:
    """The values of `x` as a NumPy array: itself, or a copy, for which it waits."""
    return x if isinstance(x, np.ndarray) else x.get()


def adopt(x: Any) -> Array:
    """Another library's array on a GPU as a CuPy array, by DLPack: no copy. Raises InvalidArgument without CuPy or a driver for it."""
    library = _device()
    try:
        found: Array = library.from_dlpack(x)
    except Exception as error:
        if not hint(error):
            raise
        raise InvalidArgument(f"CuPy cannot use this array: {explained(error)}") from error
    return found


def queue_in(device: int, stream: Any) -> Queue:
    """A stream of another library, which has its ``__cuda_stream__``, as a queue of CuPy's. Raises InvalidArgument without CuPy."""
    found: Queue = _device().queue_in(device, stream)
    return found


def _device() -> Any:
    try:
        from .device import DEVICE
    except ImportError as error:
        cure = "pip install 'hpcdl[cuda12]' or 'hpcdl[cuda13]', by the CUDA version of the driver"
        raise InvalidArgument(f"an array on a GPU needs CuPy beside it ({error}); cure: {cure}") from error
    return DEVICE


def _is_cupy(x: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def device_name(local_rank: int) -> str:
    """The device of a local rank: ``cuda:N`` where CuPy has been imported and finds GPUs, else ``cpu``."""
    cupy = sys.modules.get("cupy")
    devices = int(cupy.cuda.runtime.getDeviceCount()) if cupy is not None and cupy.is_available() else 0
    return f"cuda:{local_rank % devices}" if devices else "cpu"

"""CuPy on a GPU. The only file that imports cupy. Nothing here waits for the device or converts to the host unasked."""

from __future__ import annotations

from typing import Any

import cupy

from .library import Array, Arrays, Event

__all__ = ["DEVICE"]


class _Mark:
    def __init__(self) -> None:
        self._event = cupy.cuda.Event(disable_timing=True)
        self._event.record(cupy.cuda.get_current_stream())

    def done(self) -> bool:
        return bool(self._event.done)


class _Device:
    """CuPy. Work is queued on the current stream and runs in its order."""

    name = "cupy"
    xp: Any = cupy
    on_host = False

    def empty(self, n: int, dtype: Any) -> Array:
        return cupy.empty(n, dtype)

    def cast(self, source: Array, target: Array) -> None:
        cupy.copyto(target, source, casting="unsafe")

    def round_to_int8(self, source: Array, target: Array) -> None:
        cupy.copyto(target, cupy.nan_to_num(cupy.clip(cupy.rint(source), -128, 127)), casting="unsafe")

    def peaks(self, rows: Array) -> Array:
        return cupy.abs(rows).max(axis=1)

    def all_between(self, rows: Array, low: float, high: float) -> bool:
        return False

    def all_finite(self, x: Array) -> bool:
        return bool(cupy.isfinite(x).all().get())

    def event(self) -> Event:
        return _Mark()

    def to_host(self, source: Array, target: Array) -> None:
        source.get(stream=cupy.cuda.get_current_stream(), out=target, blocking=False)

    def from_host(self, source: Array, target: Array) -> None:
        target.set(source, stream=cupy.cuda.get_current_stream())

    def pinned(self, nbytes: int) -> Array:
        import numpy as np

        return np.frombuffer(cupy.cuda.alloc_pinned_memory(max(nbytes, 1)), np.uint8, count=nbytes)


DEVICE: Arrays = _Device()

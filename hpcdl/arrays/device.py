"""CuPy on a GPU. The only file that imports cupy. Nothing here waits for the device or converts to the host unasked."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Any

import cupy
import numpy as np

from .dtypes import BFLOAT16
from .library import Array, Arrays, Event

__all__ = ["DEVICE"]

_FLOAT16_NAN = np.uint16(0x7E00)  # as on the host; the device's own cast makes 0x7fff


class _Mark:
    def __init__(self) -> None:
        self._event = cupy.cuda.Event(disable_timing=True)
        self._event.record(cupy.cuda.get_current_stream())

    def done(self) -> bool:
        return bool(self._event.done)


class _Queue:
    """The device and stream that are current now; as a context, current again, in any thread. Both belong to a thread in CUDA."""

    def __init__(self) -> None:
        self._device, self._stream = cupy.cuda.Device(), cupy.cuda.get_current_stream()
        self.key = self._device.id, self._stream  # the null stream is one object for all devices

    def __enter__(self) -> None:
        self._device.__enter__()
        self._stream.__enter__()

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)
        self._device.__exit__(*error)


class _Device:
    """CuPy. Work is queued on the current stream and runs in its order."""

    name = "cupy"
    xp: Any = cupy
    on_host = False

    def __init__(self) -> None:
        self._copying: deque[tuple[_Mark, Array]] = deque()
        self._lock = Lock()

    def empty(self, n: int, dtype: Any) -> Array:
        return cupy.empty(n, dtype)

    def cast(self, source: Array, target: Array) -> None:
        if target.dtype == BFLOAT16 != source.dtype:
            cupy.copyto(target.view("u2"), _bfloat16_bits(source.astype("f4", copy=False).view("u4")), casting="unsafe")
        elif source.dtype == BFLOAT16 != target.dtype:
            cupy.copyto(target, (source.view("u2").astype("u4") << 16).view("f4"), casting="unsafe")
        else:
            cupy.copyto(target, source, casting="unsafe")
            if target.dtype == np.float16 != source.dtype:
                bits = target.view("u2")
                cupy.copyto(bits, cupy.where(cupy.isnan(source), _FLOAT16_NAN, bits))

    def round_to_int8(self, source: Array, target: Array) -> None:
        cupy.copyto(target, cupy.nan_to_num(cupy.clip(cupy.rint(source), -128, 127)), casting="unsafe")

    def peaks(self, rows: Array) -> Array:
        return cupy.abs(rows).max(axis=1)

    def largest(self, x: Array, k: int) -> Array:
        order = cupy.argsort(0x7FFFFFFF - (x.view("u4") & 0x7FFFFFFF))  # stable: ties stay in the order of indices
        return cupy.sort(order[:k]).astype("u4")

    def all_between(self, rows: Array, low: float, high: float) -> bool:
        return False

    def all_finite(self, x: Array) -> bool:
        return bool(cupy.isfinite(x).all().get())

    def event(self) -> Event:
        return _Mark()

    def queue(self) -> _Queue:
        return _Queue()

    def to_host(self, source: Array, target: Array) -> None:
        source.get(stream=cupy.cuda.get_current_stream(), out=target, blocking=False)
        self._keep(target)

    def from_host(self, source: Array, target: Array) -> None:
        target.set(source, stream=cupy.cuda.get_current_stream())
        self._keep(source)

    def _keep(self, host: Array) -> None:
        """Hold on to host memory until the device is done with it. Freed earlier, CuPy would give it to the next who asks."""
        mark = _Mark()
        with self._lock:
            while self._copying and self._copying[0][0].done():
                self._copying.popleft()
            self._copying.append((mark, host))

    def pinned(self, nbytes: int) -> Array:
        return np.frombuffer(cupy.cuda.alloc_pinned_memory(max(nbytes, 1)), np.uint8, count=nbytes)


def _bfloat16_bits(bits: Array) -> Array:
    """The upper half of float32 `bits`, rounded to nearest, ties to even; NaN keeps its sign.

    Why not the device's own cast: its NaN is 0x7fff, the host's 0x7fc0, and wires must not depend on where they were made.
    """
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return cupy.where((bits & 0x7FFFFFFF) > 0x7F800000, bits >> 16 & 0x8000 | 0x7FC0, rounded)


DEVICE: Arrays = _Device()

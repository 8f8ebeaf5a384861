"""CuPy on a GPU. Nothing here waits for the device or converts to the host unasked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import cupy
import numpy as np

from .bus import Bus
from .dtypes import BFLOAT16
from .kernels import CAST, OPTIONS, source_of
from .library import Array, Arrays, Event
from .queue import own_thread
from .trouble import mark

__all__ = ["DEVICE"]

_NULL = np.uint64(0)  # a pointer
_CASTS = {
    (np.dtype(np.float32), np.dtype(np.float16)): "float16_from_float32",
    (np.dtype(np.float16), np.dtype(np.float32)): "float32_from_float16",
    (np.dtype(np.float32), BFLOAT16): "bfloat16_from_float32",
    (BFLOAT16, np.dtype(np.float32)): "float32_from_bfloat16",
}
_CAST_THREADS, _CAST_EACH = 256, 4
_SUCCESS, _NOT_READY = 0, 600  # of what CUDA says of an event
_MOST_BESIDE = 8  # streams for copies in a direction; more streams than that share them
_AHEAD = -1  # priority of a stream whose small kernels go before the large ones of others: other ranks wait for what they make


class _Depth(threading.local):
    """How many queues this thread is within."""

    now = 0


_depth = _Depth()


def _stay_on(device: int) -> None:
    """In a thread of our own that is within no queue, make `device` current for good: see `serve`."""
    if not _depth.now and own_thread() and cupy.cuda.runtime.getDevice() != device:
        cupy.cuda.Device(device).use()


class _Mark:
    def __init__(self, stream: Any = None, timing: bool = False) -> None:
        self._device = cupy.cuda.runtime.getDevice()
        self._event = cupy.cuda.Event(disable_timing=not timing)
        self._event.record(cupy.cuda.get_current_stream() if stream is None else stream)

    def again(self) -> None:
        self._event.record(cupy.cuda.get_current_stream())

    def hold_back(self, stream: Any = None) -> None:
        """Let what is queued on `stream`, or else on the current one, from now on wait for it."""
        (cupy.cuda.get_current_stream() if stream is None else stream).wait_event(self._event)

    def done(self) -> bool:
        """Why not the event's own `done`: that says "not yet" of a device that is lost, for ever."""
        _stay_on(self._device)
        status = int(cupy.cuda.runtime.eventQuery(self._event.ptr))
        if status in (_SUCCESS, _NOT_READY):
            return status == _SUCCESS
        error = cupy.cuda.runtime.CUDARuntimeError(status)  # the device says only now what went wrong there
        mark(error, f"cuda:{self._device}")
        raise error


class _Queue:
    """A device and a stream of it; as a context, current, in any thread. Both belong to a thread in CUDA."""

    def __init__(self, stream: Any) -> None:
        self._device, self._stream = cupy.cuda.Device(), stream
        self.key = self._device.id, self._stream  # the null stream is one object for all devices
        self.device = f"cuda:{self._device.id}"

    def __enter__(self) -> None:
        _stay_on(self._device.id)
        self._device.__enter__()
        self._stream.__enter__()
        _depth.now += 1

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _depth.now -= 1
        if error is not None:
            mark(error, self.device)
        try:
            self._stream.__exit__(kind, error, trace)
            self._device.__exit__(kind, error, trace)
        except Exception as another:
            mark(another, self.device)
            raise


class _Device:
    """CuPy. Work is queued on the current stream and runs in its order."""

    name = "cupy"
    xp: Any = cupy
    on_host = False

    def __init__(self) -> None:
        self._copying: deque[tuple[_Mark, Array]] = deque()
        self._lock = Lock()
        self._beside: dict[tuple[int, str, int], Any] = {}  # streams for copies, by device, direction and number
        self._numbers: dict[int, int] = {}  # of those, by the stream that they are beside
        self.bus = Bus(self.pinned, self._down, self._up)

    def empty(self, n: int, dtype: Any) -> Array:
        return cupy.empty(n, dtype)

    def cast(self, source: Array, target: Array) -> None:
        kernel = _CASTS.get((source.dtype, target.dtype))
        if kernel is None:
            self._cast(source, target)
        elif source.size:
            blocks = -(-source.size // (_CAST_THREADS * _CAST_EACH))
            self.launch(CAST, kernel, blocks, _CAST_THREADS, source, target, np.int64(source.size))

    def _cast(self, source: Array, target: Array) -> None:
        """The rarer ones: CuPy's own, but that it does not know bfloat16."""
        if source.dtype == target.dtype or BFLOAT16 not in (source.dtype, target.dtype):
            cupy.copyto(target, source, casting="unsafe")
        elif target.dtype == BFLOAT16:
            self.cast(source.astype("f4"), target)
        else:
            between = cupy.empty(source.size, "f4")
            self.cast(source, between)
            cupy.copyto(target, between, casting="unsafe")

    def launch(self, files: Sequence[Path], name: str, blocks: int, threads: int, *args: Any) -> None:
        kernel = _kernel(tuple(files), name, cupy.cuda.runtime.getDevice())
        kernel((blocks,), (threads,), tuple(_NULL if arg is None else arg for arg in args))

    def note_finite(self, x: Array, flag: Array) -> None:
        finite = (x.view("u2") & 0x7F80) != 0x7F80 if x.dtype == BFLOAT16 else cupy.isfinite(x)
        finite.all(out=flag)

    def event(self) -> Event:
        return _Mark()

    def queue_in(self, device: int, stream: Any) -> _Queue:
        _, pointer = stream.__cuda_stream__()
        with cupy.cuda.Device(device):
            if not pointer:
                return _Queue(cupy.cuda.Stream.null)
            newer = hasattr(cupy.cuda.Stream, "from_external")  # CuPy 14
            return _Queue(cupy.cuda.Stream.from_external(stream) if newer else cupy.cuda.ExternalStream(pointer, device))

    def from_dlpack(self, x: Any) -> Array:
        return cupy.from_dlpack(x)

    def mark(self) -> _Mark:
        return _Mark()

    def lap(self) -> _Mark:
        return _Mark(timing=True)

    def seconds(self, one: _Mark, other: _Mark) -> float:
        return 1e-3 * float(cupy.cuda.get_elapsed_time(one._event, other._event))

    def queue(self) -> _Queue:
        return _Queue(cupy.cuda.get_current_stream())

    def beside(self) -> _Queue:
        return _Queue(cupy.cuda.Stream(non_blocking=True, priority=_AHEAD))

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

    def _down(self, source: Array, target: Array) -> Event:
        stream = self._stream("down")
        _Mark().hold_back(stream)
        source.get(stream=stream, out=target, blocking=False)
        return _Mark(stream)

    def _up(self, source: Array, target: Array) -> Event:
        stream = self._stream("up")
        _Mark().hold_back(stream)  # something queued earlier may still read what lies there
        target.set(source, stream=stream)
        copied = _Mark(stream)
        copied.hold_back(cupy.cuda.get_current_stream())
        return copied

    def _stream(self, direction: str) -> Any:
        """The stream for copies of the current one in that direction: a device has an engine for each, beside its processors.

        Why not one for all: a copy that waits for a gradient would hold up those of earlier buckets, which are behind it only by chance.
        """
        beside = int(cupy.cuda.get_current_stream().ptr)
        with self._lock:
            number = self._numbers.setdefault(beside, len(self._numbers) % _MOST_BESIDE)
            key = cupy.cuda.Device().id, direction, number
            if key not in self._beside:
                self._beside[key] = cupy.cuda.Stream(non_blocking=True, priority=_AHEAD)
            return self._beside[key]

    def pinned(self, nbytes: int) -> Array:
        return np.frombuffer(cupy.cuda.alloc_pinned_memory(max(nbytes, 1)), np.uint8, count=nbytes)


@lru_cache(maxsize=256)
def _kernel(files: tuple[Path, ...], name: str, device: int) -> Any:
    """A compiled kernel, loaded into the current device, which is `device`."""
    return _module(files, device).get_function(name)


@lru_cache(maxsize=64)
def _module(files: tuple[Path, ...], device: int) -> Any:
    module = cupy.cuda.Module()
    module.load(compiled(files))
    return module


def compiled(files: tuple[Path, ...]) -> bytes:
    """Machine code for the current device.

    Why not RawModule: behind all options it adds -ftz=true, by which subnormal numbers become zero, as they do on no processor.
    """
    code: bytes = cupy.cuda.compiler.compile_using_nvrtc(source_of(files), OPTIONS)[0]
    return code


DEVICE: Arrays = _Device()

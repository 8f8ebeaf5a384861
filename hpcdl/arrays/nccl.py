"""NCCL through CuPy: all that is known of it here. Whoever calls sees to it that all ranks call alike, in the same order."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import suppress
from typing import Any

import numpy as np

from .library import Array
from .queue import serve
from .trouble import explained

__all__ = ["OPS", "Communicator", "Connecting", "device_address", "takes", "unique_id", "version", "version_text", "why_not"]

#: NumPy's name -> NCCL's.
OPS = {"add": "NCCL_SUM", "multiply": "NCCL_PROD", "maximum": "NCCL_MAX", "minimum": "NCCL_MIN"}
_DTYPES = {name: f"NCCL_{name.upper()}" for name in ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float32", "float64")}
_OLDEST = 21000  # of those with all that is called here; 2.10


def takes(ufunc: str, dtype: np.dtype[Any]) -> bool:
    """Whether NCCL gives what NumPy gives. Not in max and min of floats, where it leaves open whose NaN wins."""
    return ufunc in OPS and dtype.name in _DTYPES and (dtype.kind != "f" or ufunc in ("add", "multiply"))


def why_not() -> str:
    """Why this process cannot use NCCL; "" where it can. Imports CuPy."""
    try:
        import cupy

        devices = cupy.cuda.runtime.getDeviceCount()
    except ImportError as error:
        return f"CuPy cannot be imported ({error}): pip install cupy-cuda12x, or -cuda13x"
    except Exception as error:
        return explained(error)
    if not devices:
        return "CuPy finds no GPU"
    nccl = _module()
    if nccl is None:
        return "CuPy finds no NCCL library: pip install nvidia-nccl-cu12, or -cu13"
    return "" if version() >= _OLDEST else f"NCCL {version_text()} is too old: 2.10 or newer is needed"


def version() -> int:
    """NCCL's version, as it numbers itself; 0 where there is none."""
    nccl = _module()
    return 0 if nccl is None else int(nccl.get_version())


def version_text() -> str:
    """The same as people write it."""
    number = version()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number else "none"


def unique_id() -> bytes:
    """What the ranks of one communicator must have in common. On one of them."""
    found = _module().get_unique_id()
    return found if isinstance(found, bytes) else bytes(byte & 0xFF for byte in found)  # before CuPy 14 a tuple of signed numbers


def device_address() -> str:
    """Which GPU of its node is current: its place on the PCI bus, whatever number this process knows it by."""
    import cupy

    return str(cupy.cuda.Device().pci_bus_id)


class Connecting:
    """Something to wait for: the communicator of the current device, of `size` ranks that have been told the same `identity`.

    In a thread of its own, since NCCL returns once all ranks have come, and one of them may never do so. Given up, it ends what it makes.
    """

    source = -1
    nbytes = 0

    def __init__(self, size: int, identity: bytes, rank: int) -> None:
        import cupy

        self._device, self._lock = cupy.cuda.Device(), threading.Lock()
        self._made: Communicator | None = None
        self._error: Exception | None = None
        self._given_up = False
        threading.Thread(target=self._connect, args=(size, identity, rank), name="hpcdl-nccl", daemon=True).start()

    def done(self) -> bool:
        """Whether it is made. Raises what went wrong."""
        if self._error is not None:
            raise self._error
        return self._made is not None

    def cancel(self) -> None:
        """Want it no more."""
        with self._lock:
            self._given_up = True
            made, self._made = self._made, None
        if made is not None:
            made.abort()

    def communicator(self) -> Communicator:
        """What was made; once done."""
        assert self._made is not None
        return self._made

    def _connect(self, size: int, identity: bytes, rank: int) -> None:
        nccl = _module()
        os.environ.setdefault("NCCL_RUNTIME_CONNECT", "0")  # all connections now: made by the first call, they would block the loop
        serve()
        try:
            self._device.use()
            made = Communicator(nccl.NcclCommunicator(size, _as_taken(nccl, identity), rank), self._device)
        except Exception as error:
            self._error = error
            return
        with self._lock:
            if not self._given_up:
                self._made = made
                return
        made.abort()


class Communicator:
    """NCCL's calls on one device. Each is queued on the current stream; `x` is contiguous there, and reduced or filled in place."""

    def __init__(self, inner: Any, device: Any) -> None:
        self._inner: Any = inner
        self._device = device

    def allreduce(self, x: Array, ufunc: str) -> None:
        """Reduce `x` over all ranks."""
        self._inner.allReduce(x.data.ptr, x.data.ptr, x.size, _number(_DTYPES[x.dtype.name]), _number(OPS[ufunc]), _stream())

    def reduce_scatter(self, x: Array, ufunc: str, rank: int, size: int) -> None:
        """Reduce part `rank` of the `size` equal parts of `x`; what the others hold afterwards is open."""
        n = x.size // size
        mine = x.data.ptr + rank * n * x.itemsize
        self._inner.reduceScatter(x.data.ptr, mine, n, _number(_DTYPES[x.dtype.name]), _number(OPS[ufunc]), _stream())

    def all_gather(self, x: Array, rank: int, size: int) -> None:
        """Fill the `size` equal parts of `x` with each rank's own."""
        n = x.size // size
        mine = x.data.ptr + rank * n * x.itemsize
        self._inner.allGather(mine, x.data.ptr, n, _number(_DTYPES[x.dtype.name]), _stream())

    def check(self) -> None:
        """Raise what NCCL has found out since, such as a peer that is gone; or that it has been ended: what was queued has no result."""
        if self._inner is None:
            raise RuntimeError("the communicator of NCCL has been ended, after another operation failed")
        self._inner.check_async_error()

    def close(self) -> None:
        """Give it back; all that was queued is done."""
        self._end("destroy")

    def abort(self) -> None:
        """End it now: what is queued ends without a result, also where a rank never came."""
        self._end("abort")

    def _end(self, how: str) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            with suppress(Exception), self._device:  # the device may be lost, and its context with it
                getattr(inner, how)()


def _module() -> Any:
    """CuPy's module of NCCL, or None where the library is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells people to install what they may not want
        try:
            from cupy.cuda import nccl
        except ImportError:
            return None
    return nccl if getattr(nccl, "available", False) else None


def _as_taken(nccl: Any, identity: bytes) -> Any:
    """The identity as this CuPy takes it: what `get_unique_id` gives."""
    import cupy

    if int(cupy.__version__.split(".")[0]) >= 14:
        return identity
    return tuple(np.frombuffer(identity, np.int8).tolist())


def _number(name: str) -> int:
    return int(getattr(_module(), name))


def _stream() -> int:
    import cupy

    return int(cupy.cuda.get_current_stream().ptr)

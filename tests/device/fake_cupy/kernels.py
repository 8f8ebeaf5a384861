"""Kernels and copies: shapes and dtypes are known at once, values only when the stream comes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from .cuda import get_current_stream
from .machine import Machine
from .memory import POISON

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
#: The bits of a NaN that a GPU's arithmetic or conversion makes, whatever went in (PTX ISA: canonical NaN).
_NAN = {np.dtype("f4"): 0x7FFFFFFF, np.dtype("f2"): 0x7FFF, _BFLOAT16: 0x7FFF}
_UNSIGNED = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


def is_array(x: Any) -> bool:
    """Whether `x` is an array of this double."""
    return hasattr(type(x), "_memory")


def check(machine: Machine, name: str, x: Any) -> Any:
    """What a kernel takes: arrays of the current device and scalars."""
    if is_array(x):
        if x._device_id != machine.device:
            raise ValueError(f"{name}: array on device {x._device_id}, but device {machine.device} is current")
    elif isinstance(x, np.ndarray):
        machine.refuse(f"{name} of a device array and a NumPy array")
    elif not isinstance(x, bool | int | float | np.generic | slice | None | type(...)):
        raise TypeError(f"{name}: unsupported type {type(x)}")
    return x


def advanced(machine: Machine, parts: tuple[Any, ...]) -> bool:
    """Whether an index holds arrays. A mask would have to wait for the number of its elements, and is refused."""
    for part in parts:
        check(machine, "index", part)
        if is_array(part) and part.dtype == bool:
            machine.refuse("index with a mask, which waits for the number of elements")
    return any(is_array(part) for part in parts)


def launch(machine: Machine, name: str, function: Callable[..., Any], *args: Any, out: Any = None, exact: bool = True) -> Any:
    """Queue ``function(*args)`` on the current stream; gives its result, or `out`. exact: NaNs pass unchanged."""
    for arg in args:
        check(machine, name, arg)
    with np.errstate(all="ignore"):
        shadow = function(*[_stand_in(arg) for arg in args])
    many = isinstance(shadow, tuple)
    shadows = [np.asarray(value) for value in (shadow if many else (shadow,))]
    results = _results(machine, name, shadows, out)
    memory, targets = [arg._memory if is_array(arg) else arg for arg in args], [result._memory for result in results]

    def work() -> None:
        with np.errstate(all="ignore"):
            values = function(*memory)
        for value, target in zip(values if many else (values,), targets, strict=True):
            _store(target, np.asarray(value), exact)

    submit(machine, "kernel", name, work)
    return tuple(results) if many else results[0]


def ufunc(machine: Machine, function: np.ufunc, *args: Any, out: Any = None, dtype: Any = None) -> Any:
    """Queue a NumPy ufunc. Its NaNs are those of a GPU."""
    how = {} if dtype is None else {"dtype": dtype}
    return launch(machine, function.__name__, lambda *x: function(*x, **how), *args, out=out, exact=False)


def copy(machine: Machine, target: Any, source: Any, name: str, casting: Any = "unsafe") -> None:
    """Queue target[...] = source."""
    check(machine, name, target)
    check(machine, name, source)
    value = source._memory if is_array(source) else source
    np.broadcast_shapes(np.shape(value), target.shape)
    if is_array(source) and not np.can_cast(source.dtype, target.dtype, casting):
        raise TypeError(f"Cannot cast {source.dtype} to {target.dtype} in {casting} casting mode")
    there = target._memory  # not the array: what is queued does not keep it alive
    submit(machine, "kernel", name, lambda: _store(there, np.asarray(value), exact=True))


def scatter(machine: Machine, target: Any, index: tuple[Any, ...], value: Any) -> None:
    """Queue target[index] = value."""
    check(machine, "setitem", target)
    check(machine, "setitem", value)
    where = tuple(part._memory if is_array(part) else part for part in index)
    what = value._memory if is_array(value) else value
    there = target._memory
    submit(machine, "kernel", "scatter", lambda: there.__setitem__(where, what))


def to_host(machine: Machine, source: Any, stream: Any, out: Any, blocking: bool) -> np.ndarray[Any, Any]:
    """Queue a copy to the host, and wait for it if asked to, or if the memory there is not pinned."""
    if out is None:
        out = np.empty(source.shape, source.dtype)
    elif not isinstance(out, np.ndarray):
        raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
    if source.dtype != out.dtype:
        raise TypeError(f"{out.dtype} array cannot be obtained from {source.dtype} array")
    if source.shape != out.shape:
        raise ValueError(f"Shape mismatch. Expected shape: {source.shape}, actual shape: {out.shape}")
    if not out.flags.c_contiguous or not source._memory.flags.c_contiguous:
        raise RuntimeError("the double copies contiguous arrays only")
    pinned = machine.raw(out)
    if pinned is not None:
        pinned[:] = POISON  # whoever looks before the copy is done finds this
    bytes_there = out.reshape(-1).view("u1") if pinned is None else pinned
    bytes_here = source._memory.reshape(-1).view("u1")
    before = machine.device
    machine.device = source._device_id
    try:
        queue, number = submit(machine, "to host", "", lambda: np.copyto(bytes_there, bytes_here), stream, source.nbytes)
    finally:
        machine.device = before
    if blocking or (pinned is None and source.size):
        machine.wait(queue, number, "get" if blocking else "get into memory that is not pinned")
    return out  # type: ignore[no-any-return]


def to_device(machine: Machine, source: np.ndarray[Any, Any], target: Any, stream: Any) -> None:
    """Queue a copy from the host. From pinned memory it reads what lies there when the stream comes to it."""
    if not isinstance(source, np.ndarray):
        raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
    if source.dtype != target.dtype:
        raise TypeError(f"{source.dtype} array cannot be set to {target.dtype} array")
    if source.shape != target.shape:
        raise ValueError(f"Shape mismatch. Old shape: {target.shape}, new shape: {source.shape}")
    if not target._memory.flags.c_contiguous:
        raise RuntimeError("Cannot set to non-contiguous array")
    pinned = machine.raw(source)
    there = np.ascontiguousarray(source).reshape(-1).view("u1").copy() if pinned is None else pinned
    here = target._memory.reshape(-1).view("u1")
    before = machine.device
    machine.device = target._device_id
    try:
        queue, number = submit(machine, "to device", "", lambda: np.copyto(here, there), stream, source.nbytes)
    finally:
        machine.device = before
    if pinned is None and stream is None:
        machine.wait(queue, number, "set from memory that is not pinned")


def upload(machine: Machine, source: np.ndarray[Any, Any], target: Any) -> None:
    """What cupy.asarray does with a NumPy array: through pinned memory of its own, without waiting."""
    value, there = source.copy(), target._memory
    submit(machine, "to device", "asarray", lambda: np.copyto(there, value), nbytes=source.nbytes)


def submit(machine: Machine, kind: str, name: str, work: Callable[[], None], stream: Any = None, nbytes: int = 0) -> Any:
    """Queue on `stream`, or on the current one."""
    stream = get_current_stream(machine) if stream is None else stream
    stream._check_device()
    return machine.submit(stream.ptr, kind, name, work, nbytes)


def _stand_in(x: Any) -> Any:
    """An array of zeros of the same shape, dtype and contiguity as good as free; scalars as they are."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if is_array(x) else x


def _results(machine: Machine, name: str, shadows: list[np.ndarray[Any, Any]], out: Any) -> list[Any]:
    if out is None:
        return [machine.array_type(shadow.shape, shadow.dtype) for shadow in shadows]
    results = list(out) if isinstance(out, tuple) else [out]
    for result, shadow in zip(results, shadows, strict=True):
        if not is_array(result):
            machine.refuse(f"{name} into a NumPy array")
        check(machine, name, result)
        if result.shape != shadow.shape:
            raise ValueError(f"{name}: out has shape {result.shape}, the result {shadow.shape}")
        if not np.can_cast(shadow.dtype, result.dtype, "same_kind"):
            raise TypeError(f"{name}: output (typecode {shadow.dtype.char}) could not be coerced to {result.dtype.char} (same_kind)")
    return results


def _store(target: np.ndarray[Any, Any], value: np.ndarray[Any, Any], exact: bool) -> None:
    with np.errstate(all="ignore"):
        np.copyto(target, value, casting="unsafe")
        if target.dtype in _NAN and (value.dtype != target.dtype or not exact) and value.dtype.kind not in "biu":
            nan = np.isnan(target)
            if nan.any():
                bits = target.view(_UNSIGNED[target.itemsize])
                bits[nan] = _NAN[target.dtype]

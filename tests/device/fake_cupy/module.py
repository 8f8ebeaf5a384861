"""The module that stands in `sys.modules` as `cupy`."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import cuda, kernels, raw
from . import ndarray as arrays
from .machine import Machine
from .missing import Namespace

UFUNCS = (
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "negative", "absolute", "abs", "sqrt", "square"),
    *("exp", "log", "log1p", "tanh", "rint", "floor", "sign", "signbit", "ldexp", "frexp", "isfinite", "isnan", "isinf", "invert"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"),
    *("logical_and", "logical_or", "logical_xor", "logical_not"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
)
DTYPES = ("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")


def build(machine: Machine) -> Namespace:
    """A fresh `cupy` on `machine`, which is its attribute `machine` too."""
    array = type("ndarray", (arrays.ndarray,), {"machine": machine, "__slots__": ()})
    below = cuda.build(machine, raw.build(machine))
    machine.array_type, machine.device_type = array, below.Device
    contents: dict[str, Any] = {name: _ufunc(machine, getattr(np, name)) for name in UFUNCS}
    contents |= {name: getattr(np, name) for name in DTYPES} | {"nan": np.nan, "inf": np.inf, "newaxis": None}
    contents |= _creation(machine, array) | _functions(machine, array)
    module = Namespace(
        "cupy", ndarray=array, cuda=below, machine=machine, is_available=lambda: bool(machine.devices) and not machine.driver, **contents
    )
    module.__version__ = "14.0.0+double"
    return module


def _ufunc(machine: Machine, function: np.ufunc) -> Any:
    def call(*args: Any, out: Any = None, casting: str = "same_kind", dtype: Any = None) -> Any:
        if casting != "same_kind":
            raise NotImplementedError("the double's ufuncs cast same_kind only")
        return kernels.ufunc(machine, function, *args, out=out, dtype=dtype)

    call.__name__ = f"cupy_{function.__name__}"
    return call


def _creation(machine: Machine, array: Any) -> dict[str, Any]:
    def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> Any:
        new = array(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
        kernels.copy(machine, new, fill_value, "fill")
        return new

    def empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
        return array(shape, dtype)

    def zeros(shape: Any, dtype: Any = float, order: str = "C") -> Any:
        return full(shape, 0, dtype)

    def ones(shape: Any, dtype: Any = float, order: str = "C") -> Any:
        return full(shape, 1, dtype)

    def zeros_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> Any:
        return full(a.shape if shape is None else shape, 0, dtype or a.dtype)

    def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> Any:
        return array(prototype.shape if shape is None else shape, dtype or prototype.dtype)

    def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Any:
        value = np.arange(start, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype)
        new = array(value.shape, value.dtype)
        submit = kernels.submit
        there = new._memory
        submit(machine, "kernel", "arange", lambda: np.copyto(there, value))
        return new

    def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> Any:
        if isinstance(a, array):
            return a.astype(a.dtype if dtype is None else dtype, copy=bool(copy))
        value = np.asarray(a, dtype)
        new = array(value.shape, value.dtype)
        kernels.upload(machine, value, new)
        return new

    def array_(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> Any:
        return asarray(obj, dtype, copy=copy)

    def ascontiguousarray(a: Any, dtype: Any = None) -> Any:
        return asarray(a, dtype) if not isinstance(a, array) or a.flags.c_contiguous else a.astype(dtype or a.dtype)

    def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> Any:
        return empty(0, "u1")._view(np.from_dlpack(array))

    made = {f.__name__: f for f in (empty, zeros, ones, full, zeros_like, empty_like, arange, asarray, ascontiguousarray, from_dlpack)}
    return {**made, "array": array_}


def _functions(machine: Machine, array: Any) -> dict[str, Any]:
    def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
        return a.get(stream=stream, order=order, out=out, blocking=blocking) if isinstance(a, array) else np.asarray(a)

    def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = None) -> None:
        if where is None:
            kernels.copy(machine, dst, src, "copyto", casting)
        else:
            kernels.launch(machine, "copyto", np.where, where, src, dst, out=dst)

    def where(condition: Any, x: Any = None, y: Any = None) -> Any:
        if x is None or y is None:
            machine.refuse("where(condition), which waits for the number of elements")
        return kernels.launch(machine, "where", np.where, condition, x, y)

    def clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> Any:
        return kernels.launch(machine, "clip", np.clip, a, a_min, a_max, out=out)

    def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
        how = {"nan": nan, "posinf": posinf, "neginf": neginf}
        return kernels.launch(machine, "nan_to_num", lambda v: np.nan_to_num(v, **how), x, out=None if copy else x)

    def matmul(*args: Any, axes: Any = None, axis: Any = None, keepdims: bool = False, out: Any = None) -> Any:
        return kernels.launch(machine, "matmul", np.matmul, *args, out=out, exact=False)

    def argsort(a: Any, axis: Any = -1, kind: Any = None) -> Any:
        return kernels.launch(machine, "argsort", lambda x: np.argsort(x, kind="stable"), a)

    def sort(a: Any, axis: Any = -1, kind: Any = None) -> Any:
        return kernels.launch(machine, "sort", np.sort, a)

    def packbits(a: Any, axis: Any = None, bitorder: str = "big") -> Any:
        return kernels.launch(machine, "packbits", lambda x: np.packbits(x, bitorder=bitorder), a)

    def unpackbits(a: Any, axis: Any = None, bitorder: str = "big") -> Any:
        return kernels.launch(machine, "unpackbits", lambda x: np.unpackbits(x, bitorder=bitorder), a)

    def sum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return a.sum(axis, dtype, out, keepdims)

    return {f.__name__: f for f in (asnumpy, copyto, where, clip, nan_to_num, matmul, argsort, sort, packbits, unpackbits, sum)}

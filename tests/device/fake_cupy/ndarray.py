"""`cupy.ndarray`: a NumPy array that nobody outside of the double can reach, except by asking for a copy."""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import kernels
from .cuda import get_current_stream
from .machine import Machine
from .memory import POISON
from .missing import lacks

_REFUSED = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__bytes__", "__array_ufunc__", "__array_function__")


class ndarray:  # noqa: N801  (CuPy's name)
    """An array on one device. Made by `wrap`, as a view of NumPy memory, or poisoned, with CuPy's own signature."""

    machine: Machine
    __slots__ = ("__weakref__", "_device_id", "_memory", "base")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float) -> None:
        self._memory = np.empty(shape, dtype)
        self._memory.reshape(-1).view("u1")[...] = POISON
        self.machine.memory.allocate(self, self._memory, get_current_stream(self.machine).ptr)
        self.base: ndarray | None = None
        self._device_id = self.machine.device

    def _view(self, memory: np.ndarray[Any, Any]) -> ndarray:
        new = object.__new__(type(self))
        new._memory, new._device_id = memory, self._device_id
        new.base = self if self.base is None else self.base
        return new

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(lacks(f"ndarray.{name}"))

    def __repr__(self) -> str:
        return f"<device array {self.dtype}{list(self.shape)} on {self._device_id}>"

    # --- what the host knows without looking

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of axes."""
        return self._memory.shape

    dtype = property(lambda self: self._memory.dtype)
    size = property(lambda self: self._memory.size)
    ndim = property(lambda self: self._memory.ndim)
    nbytes = property(lambda self: self._memory.nbytes)
    itemsize = property(lambda self: self._memory.itemsize)
    strides = property(lambda self: self._memory.strides)
    T = property(lambda self: self if self.ndim < 2 else self._view(self._memory.T))

    @property
    def flags(self) -> Any:
        """c_contiguous, f_contiguous, owndata; CuPy has no writeable."""
        flags = self._memory.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=self.base is None)

    @property
    def device(self) -> Any:
        """Its device."""
        return self.machine.device_type(self._device_id)

    @property
    def data(self) -> Any:
        """Where it lies."""
        return SimpleNamespace(ptr=self._memory.ctypes.data, device_id=self._device_id)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        pointer = self._memory.ctypes.data if self.size else 0  # as CuPy: an empty array has no address
        strides = None if self._memory.flags.c_contiguous else self.strides
        return {"shape": self.shape, "typestr": self.dtype.str, "strides": strides, "data": (pointer, False), "version": 3, "stream": 1}

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    # --- views

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        """A view where that is possible, else a copy."""
        wanted = shape[0] if len(shape) == 1 else shape
        if order != "C":
            raise NotImplementedError(lacks("reshape in another order than C"))
        if self._memory.flags.c_contiguous:
            return self._view(self._memory.reshape(wanted))
        return self.copy().reshape(wanted)

    def ravel(self, order: str = "C") -> ndarray:
        """Flat, without a copy where possible."""
        return self.reshape(-1, order=order)

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        """The same bytes as another dtype."""
        if type is not None:
            raise NotImplementedError(lacks("view(type=)"))
        return self._view(self._memory.view() if dtype is None else self._memory.view(dtype))

    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        if kernels.advanced(self.machine, parts):
            return kernels.launch(self.machine, "getitem", lambda x, *index: x[index], self, *parts)
        return self._view(self._memory[parts if any(part is Ellipsis for part in parts) else (*parts, ...)])

    def __setitem__(self, key: Any, value: Any) -> None:
        parts = key if isinstance(key, tuple) else (key,)
        if kernels.advanced(self.machine, parts):
            kernels.scatter(self.machine, self, parts, value)
        else:
            kernels.copy(self.machine, self[key], value, "setitem")

    # --- to and from the host

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray[Any, Any]:
        """A copy on the host; with blocking=False it is final only once the stream has come so far."""
        return kernels.to_host(self.machine, self, stream, out, blocking)

    def set(self, arr: np.ndarray[Any, Any], stream: Any = None) -> None:
        """Copy from the host."""
        kernels.to_device(self.machine, arr, self, stream)

    def item(self) -> Any:
        """The only element, as a Python number; waits."""
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.machine.refuse("numpy array of a device array")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # host memory, so that a torch without CUDA takes it

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None) -> Any:
        lent = SimpleNamespace(owner=self, __array_interface__=self._memory.__array_interface__)  # keeps this array alive
        return np.asarray(lent).__dlpack__()

    # --- kernels

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> ndarray:
        """A converted copy."""
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")  # as CuPy
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        new = type(self)(self.shape, dtype)
        kernels.copy(self.machine, new, self, "astype")
        return new

    def copy(self, order: str = "C") -> ndarray:
        """A copy."""
        return self.astype(self.dtype)

    def fill(self, value: Any) -> None:
        """Set every element."""
        kernels.copy(self.machine, self, value, "fill")


def _reduction(name: str) -> Any:
    def method(self: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return kernels.launch(self.machine, name, lambda x: getattr(np, name)(x, axis=axis, keepdims=keepdims), self, out=out)

    return method


def _with_dtype(name: str) -> Any:
    def method(self: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return kernels.launch(self.machine, name, lambda x: getattr(np, name)(x, axis=axis, dtype=dtype, keepdims=keepdims), self, out=out)

    return method


def _binary(ufunc: np.ufunc, swapped: bool = False) -> Any:
    def method(self: ndarray, other: Any) -> Any:
        return kernels.ufunc(self.machine, ufunc, *((other, self) if swapped else (self, other)))

    return method


def _in_place(ufunc: np.ufunc) -> Any:
    return lambda self, other: kernels.ufunc(self.machine, ufunc, self, other, out=self)


def _refused(name: str) -> Any:
    return lambda self, *args, **kw: self.machine.refuse(f"{name} {args[0] if args else ''}")


for _name in ("max", "min", "all", "any", "argmax", "argmin"):
    setattr(ndarray, _name, _reduction(_name))
for _name in ("sum", "mean", "prod"):
    setattr(ndarray, _name, _with_dtype(_name))
for _name, _ufunc in {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide, "pow": np.power},
    **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift},
    **{"matmul": np.matmul, "mod": np.remainder},
}.items():
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
    setattr(ndarray, f"__r{_name}__", _binary(_ufunc, swapped=True))
    if hasattr(operator, f"__i{_name}__") and _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal},
}.items():
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
for _name, _ufunc in {"neg": np.negative, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", lambda self, ufunc=_ufunc: kernels.ufunc(self.machine, ufunc, self))
for _name in _REFUSED:
    setattr(ndarray, _name, _refused(_name))

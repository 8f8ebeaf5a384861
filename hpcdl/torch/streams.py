"""CuPy works where torch does: on the same device, in the stream that is torch's current one there. All of that order is here.

Why: both libraries keep a current stream of their own in each thread. Arrays and tensors that share memory share no order by that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import torch

from .. import arrays

__all__ = ["Place", "all_ordered", "at", "gpu_of", "in_order", "ordered", "place_of"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Class = TypeVar("_Class", bound=type)


class Place:
    """A device, and what was torch's current stream there when this was made; nothing at all on the host."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self._stream = None if device is None else torch.cuda.current_stream(device)

    def again(self) -> AbstractContextManager[Any]:
        """Within: that stream is the current one, of torch and of CuPy, in any thread."""
        if self._stream is None:
            return nullcontext()
        stack = ExitStack()
        stack.enter_context(torch.cuda.stream(self._stream))
        stack.enter_context(at(self.device))
        return stack


def gpu_of(x: torch.Tensor) -> torch.device | None:
    """The GPU that `x` is on; None on the host."""
    return x.device if x.device.type == "cuda" else None


def at(device: torch.device | None) -> AbstractContextManager[Any]:
    """Within: CuPy works on `device`, in torch's current stream there. None: nothing. Raises InvalidArgument without CuPy."""
    return nullcontext() if device is None else arrays.queue_in(device.index, torch.cuda.current_stream(device))


def in_order(x: torch.Tensor | None) -> AbstractContextManager[Any]:
    """`at` the GPU of `x`; nothing on the host."""
    return nullcontext() if x is None else at(gpu_of(x))


def place_of(tensors: Any) -> torch.device | None:
    """The GPU of the first tensor on one in `tensors`, which may be nested in lists and tuples; None where there is none."""
    if isinstance(tensors, torch.Tensor):
        return gpu_of(tensors)
    if isinstance(tensors, list | tuple):
        return next((found for found in map(place_of, tensors) if found is not None), None)
    return None


def ordered(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """`function`, `at` the GPU of its first tensor there. Costs a look at a flag where no GPU is in use."""

    @functools.wraps(function)
    def call(*args: _P.args, **kw: _P.kwargs) -> _T:
        if not torch.cuda.is_initialized():
            return function(*args, **kw)
        with at(place_of((*args, *kw.values()))):
            return function(*args, **kw)

    return call


def all_ordered(owner: _Class) -> _Class:
    """A class, all methods of which are `ordered`."""
    for name, method in list(vars(owner).items()):
        if isinstance(method, FunctionType) and not name.startswith("__"):
            setattr(owner, name, ordered(method))
    return owner

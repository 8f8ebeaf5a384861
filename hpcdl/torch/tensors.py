"""Tensors as arrays and back, without a copy: the seam between PyTorch and everything below the doors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import arrays
from ..arrays import BFLOAT16, Array
from ..errors import InvalidArgument
from .streams import gpu_of

__all__ = ["as_array", "as_tensor", "numpy_dtype"]

_NUMPY = {
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: BFLOAT16,
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.bool: np.dtype(np.bool_),
    **{getattr(torch, f"{u}int{bits}"): np.dtype(f"{u}int{bits}") for u in ("", "u") for bits in (8, 16, 32, 64)},
}

_TORCH = {numpy: dtype for dtype, numpy in _NUMPY.items()}


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The NumPy dtype of the same bytes. Raises InvalidArgument for one that collectives don't take (complex, quantised, …)."""
    found: np.dtype[Any] | None = _NUMPY.get(dtype)
    if found is None:
        raise InvalidArgument(f"tensors of {dtype} cannot be reduced; valid: {', '.join(str(d).removeprefix('torch.') for d in _NUMPY)}")
    return found


def as_array(x: torch.Tensor) -> Array:
    """The memory of `x` as an array of the same shape, NumPy's on the host, CuPy's on a GPU. Writing to one changes the other.

    Raises InvalidArgument for what has no plain memory: sparse, not contiguous, on another kind of device, or of a dtype unknown here.
    """
    dtype = numpy_dtype(x.dtype)
    x = x.detach()
    if x.layout != torch.strided or not x.is_contiguous():
        what, cure = ("sparse", "to_dense") if x.layout != torch.strided else ("not contiguous", "contiguous")
        raise InvalidArgument(f"the tensor of shape {tuple(x.shape)} is {what}; pass x.{cure}()")
    if (gpu := gpu_of(x)) is not None:
        return _adopted(x, dtype, gpu)
    if x.device.type != "cpu":
        raise InvalidArgument(f"the tensor of shape {tuple(x.shape)} is on {x.device}; tensors must be on cpu or cuda")
    array: Array = x.view(torch.int16).numpy().view(BFLOAT16) if dtype == BFLOAT16 else x.numpy()
    return array


def as_tensor(x: Array) -> torch.Tensor:
    """The memory of `x` as a tensor of the same shape. Writing to one changes the other."""
    if not isinstance(x, np.ndarray):
        return torch.from_dlpack(x.reshape(-1).view("u1")).view(_TORCH[x.dtype]).view(x.shape)
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype == BFLOAT16 else torch.from_numpy(x)


def _adopted(x: torch.Tensor, dtype: np.dtype[Any], gpu: torch.device) -> Array:
    """The memory of `x` on a GPU, by DLPack. Within `streams.in_order`: it is torch's current stream that CuPy then works in.

    Why as bytes: DLPack has names for all of these dtypes, but neither library takes each of them from the other.

    Why record_stream: torch gives memory that is freed to the next who asks in the stream that it was made in, and does not know that
    work on it is queued in this one. Where the two are the same, it costs nothing.
    """
    if x.numel():
        x.record_stream(torch.cuda.current_stream(gpu))
    return arrays.adopt(x.view(-1).view(torch.uint8)).view(dtype).reshape(x.shape)

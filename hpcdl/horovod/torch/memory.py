"""Tensors as Horovod takes them, dense, contiguous, of a dtype that can be reduced; on a GPU in the order of torch's current stream."""

from __future__ import annotations

from typing import Any

import torch

from ...arrays import Array
from ...errors import InvalidArgument
from ...torch.streams import at
from ...torch.tensors import as_array, as_tensor
from .. import handles

__all__ = ["array_of", "synchronize", "tensors_of"]


def array_of(tensor: Any) -> Array:
    """The memory of `tensor`. Raises InvalidArgument for one that is not contiguous or of a dtype that is not supported."""
    if not isinstance(tensor, torch.Tensor):
        raise InvalidArgument(f"expected a torch.Tensor, got a {type(tensor).__name__}")
    return as_array(tensor)


def tensors_of(arrays: list[Array]) -> tuple[torch.Tensor, ...]:
    """New arrays as tensors."""
    return tuple(as_tensor(x) for x in arrays)


def synchronize(handle: int) -> Any:
    """Wait until the operation has finished; its result: a tensor, or a tuple of them. A handle is used up by it; then it gives None.

    On a GPU what is queued in torch's current stream from now on comes after it, and the host does not wait for the GPU. Raises
    HorovodInternalError, the same on every rank, where the operation failed.
    """
    with at(torch.device("cuda", torch.cuda.current_device()) if handles.on_device(handle) else None):
        return handles.synchronize(handle)

"""Tensors as Horovod takes them: dense, contiguous, of a dtype that can be reduced."""

from __future__ import annotations

from typing import Any

import torch

from ...arrays import Array
from ...errors import InvalidArgument
from ...torch.tensors import as_array, as_tensor

__all__ = ["array_of", "tensors_of"]


def array_of(tensor: Any) -> Array:
    """The memory of `tensor`. Raises InvalidArgument for one that is not contiguous or of a dtype that is not supported."""
    if not isinstance(tensor, torch.Tensor):
        raise InvalidArgument(f"expected a torch.Tensor, got a {type(tensor).__name__}")
    return as_array(tensor)


def tensors_of(arrays: list[Array]) -> tuple[torch.Tensor, ...]:
    """New arrays as tensors."""
    return tuple(as_tensor(x) for x in arrays)

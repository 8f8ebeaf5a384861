"""Tensors as arrays that can be sent, received and reduced; copies only where there is no other way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ... import arrays
from ...arrays import Array
from ...errors import InvalidArgument

__all__ = ["Restore", "about", "dense", "incoming", "outgoing", "raw"]

#: Copies what has come to where it belongs; None where it is there already.
Restore = Callable[[], None] | None


def raw(x: torch.Tensor) -> Array:
    """The memory of `x`, which is dense, as a flat array of bytes. Any dtype, complex and float8 too."""
    flat = x.detach().as_strided((x.numel(),), (1,)).view(torch.uint8)  # one element may have any stride
    if flat.device.type == "cpu":
        found: Array = flat.numpy()
        return found
    if flat.device.type == "cuda":
        return arrays.adopt(flat)
    raise InvalidArgument(f"the tensor of shape {tuple(x.shape)} is on {x.device}; tensors must be on cpu or cuda")


def dense(x: torch.Tensor) -> bool:
    """Whether the memory of `x` is its values, in order."""
    return x.layout == torch.strided and x.is_contiguous() and not (x.is_complex() and x.is_conj()) and not x.is_neg()


def outgoing(x: torch.Tensor) -> torch.Tensor:
    """`x`, or a dense copy of it."""
    _check_layout(x)
    return x.detach() if dense(x) else x.detach().resolve_conj().resolve_neg().contiguous()


def incoming(x: torch.Tensor, keep: bool = False) -> tuple[torch.Tensor, Restore]:
    """`x`, or dense memory of its shape and what copies that back. keep: the memory holds the values of `x`."""
    _check_layout(x)
    x = x.detach()
    if dense(x):
        return x, None
    there = outgoing(x).clone() if keep else torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def restore() -> None:
        x.copy_(there)

    return there, restore


def about(x: torch.Tensor) -> tuple[Any, tuple[int, ...]]:
    """Dtype and shape, for the agreement of ranks and for errors."""
    return str(x.dtype).removeprefix("torch."), tuple(x.shape)


def _check_layout(x: torch.Tensor) -> None:
    if x.layout != torch.strided:
        raise InvalidArgument(f"the tensor of shape {tuple(x.shape)} is sparse, which only all_reduce takes; pass x.to_dense()")

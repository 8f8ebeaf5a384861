"""Tensors as arrays that can be sent, received and reduced; copies only where there is no other way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ...arrays import Array
from ...errors import InvalidArgument
from ..tensors import as_array

__all__ = ["Restore", "about", "apart", "check_dtypes", "check_target", "dense", "incoming", "outgoing", "raw"]

#: Copies what has come to where it belongs; None where it is there already.
Restore = Callable[[], None] | None


def raw(x: torch.Tensor) -> Array:
    """The memory of `x`, which is dense, as a flat array of bytes. Any dtype, complex and float8 too."""
    return as_array(x.detach().as_strided((x.numel(),), (1,)).view(torch.uint8))  # one element may have any stride


def dense(x: torch.Tensor) -> bool:
    """Whether the memory of `x` is its values, in order."""
    return x.layout == torch.strided and x.is_contiguous() and not (x.is_complex() and x.is_conj()) and not x.is_neg()


def outgoing(x: torch.Tensor) -> torch.Tensor:
    """`x`, or a dense copy of it."""
    _check_layout(x)
    return x.detach() if dense(x) else x.detach().resolve_conj().resolve_neg().contiguous()


def incoming(x: torch.Tensor, keep: bool = False) -> tuple[torch.Tensor, Restore]:
    """`x`, or dense memory of its shape and what copies that back. keep: the memory holds the values of `x`.

    Raises InvalidArgument where elements of `x` share memory: they could not take different values.
    """
    _check_layout(x)
    x = x.detach()
    if dense(x):
        return x, None
    check_target(x)
    there = outgoing(x).clone() if keep else torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def restore() -> None:
        x.copy_(there)

    return there, restore


def about(x: torch.Tensor) -> tuple[Any, tuple[int, ...]]:
    """Dtype and shape, for the agreement of ranks and for errors."""
    return str(x.dtype).removeprefix("torch."), tuple(x.shape)


def check_target(x: torch.Tensor) -> None:
    """Raise InvalidArgument where an expanded dimension gives several elements of `x` the same memory."""
    if x.layout == torch.strided and any(stride == 0 and length > 1 for stride, length in zip(x.stride(), x.shape, strict=True)):
        raise InvalidArgument(f"elements of the tensor of shape {tuple(x.shape)} share memory, and would be written; pass x.clone()")


def check_dtypes(what: str, given: Iterable[torch.Tensor]) -> None:
    """Raise InvalidArgument unless all tensors that `what` gets have one dtype: bytes are moved, and nothing is converted."""
    found = dict.fromkeys(x.dtype for x in given)
    if len(found) > 1:
        raise InvalidArgument(f"{what}: all tensors must have one dtype, got {', '.join(map(str, found))}")


def apart(inputs: Sequence[torch.Tensor], outputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The dense `inputs`, copied where they lie in memory that will be written: that of the dense `outputs`."""
    written: dict[int, list[tuple[int, int]]] = {}
    for out in outputs:
        written.setdefault(out.untyped_storage().data_ptr(), []).append(_extent(out))

    def meets(x: torch.Tensor) -> bool:
        begin, end = _extent(x)
        return any(begin < until and since < end for since, until in written.get(x.untyped_storage().data_ptr(), ()))

    return [x.clone() if meets(x) else x for x in inputs]


def _extent(x: torch.Tensor) -> tuple[int, int]:
    return x.data_ptr(), x.data_ptr() + x.numel() * x.itemsize


def _check_layout(x: torch.Tensor) -> None:
    if x.layout not in (torch.strided, torch.sparse_coo):
        raise InvalidArgument(
            f"the tensor of shape {tuple(x.shape)} is sparse, of layout {x.layout}, which nothing takes; pass x.to_dense()"
        )
    if x.layout != torch.strided:
        raise InvalidArgument(f"the tensor of shape {tuple(x.shape)} is sparse, which only all_reduce takes; pass x.to_dense()")

"""Reduce operations of torch.distributed in terms of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed import ReduceOp

from ...errors import InvalidArgument
from ..tensors import as_array
from .memory import Restore, incoming, outgoing

__all__ = ["Plan", "plan", "prepare"]

_KIND = ReduceOp.RedOpType
_NAMES = {
    _KIND.SUM: "sum",
    _KIND.AVG: "mean",
    _KIND.PREMUL_SUM: "sum",
    _KIND.PRODUCT: "product",
    _KIND.MIN: "min",
    _KIND.MAX: "max",
    _KIND.BAND: "bit_and",
    _KIND.BOR: "bit_or",
    _KIND.BXOR: "bit_xor",
}
_OF_BOOL = {"sum": "logical_or", "product": "logical_and"}  # as numbers that are 0 or not
_LINEAR = ("sum", "mean")
_SHORT = {getattr(torch, name) for name in dir(torch) if name.startswith("float8_") and name != "float8_e8m0fnu"}


@dataclass(frozen=True)
class Plan:
    """What a reduce operation amounts to for one dtype: our operation, then a division by `divide`; a factor for what goes in."""

    op: str
    factor: Any = None
    divide: int = 0


def plan(op: Any, dtype: torch.dtype, size: int) -> Plan:
    """How `op` reduces tensors of `dtype` over `size` ranks. Raises InvalidArgument for what has no meaning."""
    kind = op.op if isinstance(op, ReduceOp) else op
    name = _NAMES.get(kind)
    if name is None:
        raise InvalidArgument(f"unknown reduce operation {op}; known: {', '.join(k.name for k in _NAMES)}")
    if dtype == torch.bool:
        name = _OF_BOOL.get(name, name)
    if dtype.is_complex and name not in _LINEAR:
        raise InvalidArgument(f"{kind.name} is not defined for {dtype}; valid: SUM, AVG, PREMUL_SUM")
    if (dtype.is_complex or dtype.is_floating_point) and name.startswith("bit_"):
        raise InvalidArgument(f"{kind.name} is not defined for {dtype}; valid: integers and bool")
    if name == "mean" and not (dtype.is_complex or dtype.is_floating_point):
        if dtype == torch.bool:
            raise InvalidArgument("AVG is not defined for torch.bool; valid: MIN, MAX, SUM (any), PRODUCT (all), BAND, BOR, BXOR")
        return Plan("sum", divide=size)
    return Plan(name, factor=_factor(op.__getstate__()[1], dtype) if kind == _KIND.PREMUL_SUM else None)


def _factor(factor: Any, dtype: torch.dtype) -> Any:
    """The factor of PREMUL_SUM as a number. Raises InvalidArgument where its product with a tensor of `dtype` is not of that dtype."""
    if isinstance(factor, torch.Tensor):
        factor = factor.item()  # torch has seen to it that it is one number
    valid = (int, float) if dtype.is_floating_point or dtype.is_complex else int
    if dtype == torch.bool or not isinstance(factor, valid):
        told = "a real number for floating and complex tensors, a tensor of one integer for integers"
        raise InvalidArgument(f"the factor {factor} of PREMUL_SUM does not fit {dtype}; valid: {told}")
    return factor


def prepare(x: torch.Tensor, how: Plan, reads_only: bool = False) -> tuple[Any, Restore]:
    """An array to reduce in place of `x`, and what copies the result back. Without a copy wherever that can be.

    reads_only: `x` is input, and what is given must not share its memory if it needs a factor.
    """
    there, restore = (outgoing(x), None) if reads_only else incoming(x, keep=True)
    if there.is_complex():
        there = torch.view_as_real(there)
    if there.dtype in _SHORT:
        wide, target = there.float(), x.detach()
        there, restore = wide, lambda: _copy(wide, target)
    if how.factor is not None:
        if reads_only:
            there = there * how.factor
        else:
            there.mul_(how.factor)
    if how.divide:
        return as_array(there), lambda: _divide(there, how.divide, restore)
    return as_array(there), restore


def _copy(source: torch.Tensor, target: torch.Tensor) -> None:
    target.copy_(source)


def _divide(x: torch.Tensor, number: int, then: Restore) -> None:
    x.div_(number, rounding_mode="trunc")
    if then is not None:
        then()

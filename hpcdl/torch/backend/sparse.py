"""Sums of sparse tensors: every rank's elements are gathered, and each adds them up."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...collectives.group import Group
from ...collectives.moves import all_gather
from ...collectives.operation import Operation, Signature
from ...errors import InvalidArgument
from .memory import about, raw
from .ops import Plan

__all__ = ["reduce_sparse"]


def reduce_sparse(group: Group, x: torch.Tensor, how: Plan) -> tuple[Operation, Any]:
    """Start to sum `x`, a COO tensor, in place; the operation, and what puts the result into `x`. Only SUM and AVG.

    Each rank gets all ranks' elements: the sum of their numbers times the bytes of an element and its indices.
    """
    if how.op not in ("sum", "mean") or how.factor is not None:
        what = "PREMUL_SUM" if how.factor is not None else how.op
        raise InvalidArgument(f"sparse tensors are reduced by SUM and AVG, not {what}")
    mine = x.detach().coalesce()
    indices, values = mine.indices(), mine.values().contiguous()
    count, depth = indices.shape[1], indices.shape[0]
    width = values[:1].numel() * values.itemsize if count else int(np.prod(values.shape[1:])) * values.itemsize
    rows = np.empty((count, 8 * depth + width), np.uint8)
    rows[:, : 8 * depth] = raw(indices.t().contiguous().cpu()).reshape(count, 8 * depth)
    rows[:, 8 * depth :] = raw(values.cpu()).reshape(count, width)
    dtype, shape = about(x)
    op = "mean" if how.divide else how.op
    operation = all_gather(group, rows, Signature("allreduce", op, f"sparse {dtype}", shape, extra=f"{depth} sparse dimensions"))

    def put() -> None:
        everyone = operation.result
        total = len(everyone)
        where = torch.empty(total, depth, dtype=torch.int64)
        what = torch.empty(total, *values.shape[1:], dtype=values.dtype)
        raw(where).reshape(total, 8 * depth)[...] = everyone[:, : 8 * depth]
        raw(what).reshape(total, width)[...] = everyone[:, 8 * depth :]
        result = torch.sparse_coo_tensor(where.t(), what, x.shape).coalesce().to(x.device)
        if op == "mean":
            result.values().div_(group.transport.size, rounding_mode="trunc" if how.divide else None)
        x.copy_(result)  # not of x.detach(), whose elements are its own

    return operation, put

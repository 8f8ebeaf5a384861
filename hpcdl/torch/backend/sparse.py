"""Sums of sparse tensors: every rank's elements are gathered, and each adds them up."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...collectives.group import Group
from ...collectives.moves import all_gather
from ...collectives.operation import Operation
from ...errors import InvalidArgument
from .memory import raw
from .ops import Plan

__all__ = ["reduce_sparse"]


def reduce_sparse(group: Group, x: torch.Tensor, how: Plan) -> tuple[Operation, Any]:
    """Start to sum `x`, a COO tensor, in place; the operation, and what puts the result into `x`. Only SUM and AVG.

    Each rank gets all ranks' elements: the sum of their numbers times the bytes of an element and its indices.
    """
    if how.op not in ("sum", "mean") or how.factor is not None:
        raise InvalidArgument(f"sparse tensors are reduced by SUM and AVG, not {how.op}")
    mine = x.detach().coalesce()
    indices, values = mine.indices(), mine.values().contiguous()
    count, depth = indices.shape[1], indices.shape[0]
    width = values[:1].numel() * values.itemsize if count else int(np.prod(values.shape[1:])) * values.itemsize
    rows = np.empty((count, 8 * depth + width), np.uint8)
    rows[:, : 8 * depth] = raw(indices.t().contiguous()).reshape(count, 8 * depth)
    rows[:, 8 * depth :] = raw(values).reshape(count, width)
    operation = all_gather(group, rows)

    def put() -> None:
        everyone = operation.result
        total = len(everyone)
        where = torch.from_numpy(np.ascontiguousarray(everyone[:, : 8 * depth])).view(torch.int64).reshape(total, depth).t()
        what = torch.from_numpy(np.ascontiguousarray(everyone[:, 8 * depth :])).reshape(-1).view(values.dtype)
        result = torch.sparse_coo_tensor(where, what.reshape(total, *values.shape[1:]), x.shape).coalesce()
        if how.op == "mean":
            result = result / group.transport.size
        x.copy_(result)  # not of x.detach(), whose elements are its own

    return operation, put

"""Collectives that reduce: in place, without a copy, wherever the tensors' memory is what it seems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed import AllreduceCoalescedOptions, AllreduceOptions, ReduceOp, ReduceOptions, ReduceScatterOptions

from ...arrays import Array
from ...collectives import calls, quick
from ...collectives.branch import current
from ...collectives.operation import Operation
from ...collectives.reduce_into import reduce_scatter_into, reduce_to
from ...errors import InvalidArgument
from ..streams import all_ordered
from ..tensors import as_array
from .base import Part, only
from .memory import Restore, check_target, incoming
from .ops import Plan, plan, prepare
from .sparse import reduce_sparse
from .work import Work, seconds

__all__ = ["Reductions"]

_SUM = Plan("sum")


@all_ordered
class Reductions(Part):
    """all_reduce, reduce and reduce_scatter, with their coalesced and uneven forms. The names are those of torch's C++ interface."""

    def allreduce(self, tensors: Any, opts: Any = None, timeout: Any = None) -> Work:
        """Reduce each of `tensors` over all ranks, in place; bitwise the same on all of them."""
        opts = _options(AllreduceOptions, opts, timeout)
        given = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        op = opts.reduceOp
        if len(given) == 1 and not opts.asyncOp and current() is None and seconds(opts.timeout) is None and self._at_once(given[0], op):
            return Work((), given)
        operations, restores = [], []
        for x in given:
            if x.is_sparse:
                operation, restore = reduce_sparse(self._group, x, plan(op, x.dtype, self._size))
            else:
                how = plan(op, x.dtype, self._size)
                array, restore = prepare(x, how)
                operation = calls.allreduce(self._group, array, how.op, collective=self._way(array))
            operations.append(operation)
            restores.append(restore)
        return self._work(operations, given, restores, opts)

    def allreduce_coalesced(self, tensors: list[torch.Tensor], opts: Any = None) -> Work:
        """The same; all of them are under way at once."""
        return self.allreduce(tensors, opts or AllreduceCoalescedOptions())

    def reduce(self, tensors: Any, opts: Any = None, op: Any = ReduceOp.SUM, timeout: Any = None) -> Work:
        """On one rank, reduce the tensor over all ranks, in place; the others keep theirs."""
        if isinstance(opts, int):
            root, opts = opts, ReduceOptions()
            opts.rootRank, opts.reduceOp = root, op
        opts = _options(ReduceOptions, opts, timeout)
        x = tensors if isinstance(tensors, torch.Tensor) else only(tensors, "reduce")
        how = plan(opts.reduceOp, x.dtype, self._size)
        mine = self._rank == opts.rootRank
        check_target(x)  # on every rank alike
        array, restore = prepare(x, how, reads_only=not mine)
        return self._work([reduce_to(self._group, array, opts.rootRank, how.op)], [x], [restore if mine else None], opts)

    def reduce_scatter(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Work:
        """The output is the reduction over ranks of their inputs[this rank]. Sizes may differ between ranks, if all know them."""
        opts = _options(ReduceScatterOptions, opts, timeout)
        if isinstance(outputs, torch.Tensor):
            outputs, inputs = [outputs], [inputs]
        output = only(outputs, "reduce_scatter")
        operation, restore = self._scattered(output, only(inputs, "reduce_scatter"), opts)
        return self._work([operation], [output], [restore], opts)

    def reduce_scatter_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Work:
        """The same for one tensor that holds the inputs of all ranks, in rank order."""
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None) -> Work:
        """The same for several, all under way at once."""
        opts = _options(ReduceScatterOptions, opts, None)
        pairs = [self._scattered(out, self._cut(x, out), opts) for out, x in zip(outputs, inputs, strict=True)]
        return self._work([operation for operation, _ in pairs], outputs, [restore for _, restore in pairs], opts)

    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def _scattered(self, output: torch.Tensor, inputs: Sequence[torch.Tensor], opts: Any) -> tuple[Operation, Restore]:
        if any(x.dtype != output.dtype for x in inputs):
            raise InvalidArgument(f"reduce_scatter: inputs of {[str(x.dtype) for x in inputs]} for an output of {output.dtype}")
        how = plan(opts.reduceOp, output.dtype, self._size)
        parts = [prepare(x, Plan(how.op, how.factor), reads_only=True)[0].reshape(-1) for x in inputs]
        target, restore = prepare_output(output, how)
        operation = reduce_scatter_into(self._group, parts, target.reshape(-1), how.op)
        return operation, restore

    def _cut(self, x: torch.Tensor, out: torch.Tensor) -> list[torch.Tensor]:
        """The parts of `x`, each as large as `out`."""
        if x.numel() != out.numel() * self._size:
            raise InvalidArgument(f"reduce_scatter: an input of {x.numel()} elements for {self._size} outputs of {out.numel()}")
        return list(x.reshape(-1).detach().split(out.numel())) if out.numel() else [x.reshape(-1)] * self._size

    def _way(self, x: Array) -> str:
        """The collective to use; in a callback one that needs nothing but messages."""
        return "auto" if current() is None else self._group.plan.choose(x.nbytes, host=False).collective

    def _at_once(self, x: torch.Tensor, op: Any) -> bool:
        """Reduce `x` without a handle, if that can be; whether it has."""
        if x.layout != torch.strided or x.is_complex() or x.device.type != "cpu" or not x.is_contiguous() or x.is_neg():
            return False
        how = plan(op, x.dtype, self._size)
        if how.factor is not None or how.divide or x.dtype.itemsize < 2:
            return False
        return quick.allreduce(self._group, as_array(x), how.op, None, "auto", "")


def prepare_output(x: torch.Tensor, how: Plan) -> Any:
    """An array for the result `x` of a reduction, and what copies it there."""
    return prepare(x, Plan(how.op, divide=how.divide)) if how.divide or x.dtype.itemsize < 2 else _plain(x)


def _plain(x: torch.Tensor) -> Any:
    there, restore = incoming(x)
    return as_array(torch.view_as_real(there) if there.is_complex() else there), restore


def _options(kind: Any, opts: Any, timeout: Any) -> Any:
    """`opts` as options, whichever way torch gave them."""
    if opts is None or isinstance(opts, (ReduceOp, ReduceOp.RedOpType)):
        op, opts = opts, kind()
        opts.asyncOp = True
        if op is not None:
            opts.reduceOp = op if isinstance(op, ReduceOp) else ReduceOp(op)
    if timeout is not None:
        opts.timeout = timeout
    return opts

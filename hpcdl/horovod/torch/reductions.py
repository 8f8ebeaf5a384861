"""All-reduce and reduce-scatter. With a trailing underscore: in place. `_async`: a handle for `synchronize` at once.

Arguments, common to all: tensors are contiguous; `name` matches the calls of all ranks, in any order (without one: the n-th call of its
kind); op: Average (default), Sum, Min, Max, Product, Adasum; prescale_factor and postscale_factor multiply before and after the reduction;
process_set: the ranks that take part. Raises HorovodInternalError, on every rank the same, where ranks disagree; InvalidArgument (a
ValueError) for a tensor or an op that cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...torch.streams import ordered
from ..arguments import op_of, waiting
from ..basics import Average, named, op_name
from ..compressors import codec_of
from ..feedback import Dropped
from ..handles import register
from ..process_sets import ProcessSet, global_process_set
from .memory import array_of, synchronize, tensors_of
from .spare import empty_like

__all__ = [
    "allreduce_async",
    "allreduce_async_",
    "grouped_allreduce_async",
    "grouped_allreduce_async_",
    "grouped_reducescatter_async",
    "plain_allreduce",
    "reducescatter_async",
    "sparse_allreduce_async",
    "start_allreduce",
    "start_reducescatter",
]


@ordered
def start_allreduce(
    tensors: Sequence[torch.Tensor],
    name: str | None,
    op: int,
    prescale: float,
    postscale: float,
    process_set: ProcessSet,
    grouped: bool = False,
    codec: str = "none",
    copies: bool = False,
    dropped: Sequence[Dropped] | None = None,
) -> int:
    """Start to reduce `tensors` in place, or `copies` of them; the handle. dropped: of each before, where there is error feedback.

    Its result is the tensor, or the tuple of them where `grouped`.
    """
    given: list[Any] | None
    given = arrays = [array_of(x) for x in tensors]
    if copies:
        tensors = [empty_like(x) for x in tensors]
        arrays = [array_of(x) for x in tensors]

    def result() -> Any:
        for x in tensors:
            torch.autograd.graph.increment_version(x)
        return tuple(tensors) if grouped else tensors[0]

    there = named(process_set)
    beside = given if copies else None
    return register(there.allreduce(arrays, name or "", op_name(op), prescale, postscale, codec, grouped, result, beside, dropped))


def allreduce_async(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> int:
    """Start to reduce a copy of `tensor`; a handle."""
    return start_allreduce([tensor], name, op_of(op, average), prescale_factor, postscale_factor, process_set, copies=True)


def allreduce_async_(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> int:
    """Start to reduce `tensor` in place; a handle."""
    return start_allreduce([tensor], name, op_of(op, average), prescale_factor, postscale_factor, process_set)


def grouped_allreduce_async(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> int:
    """Start to reduce copies of `tensors`, all together; a handle."""
    return start_allreduce(
        list(tensors), name, op_of(op, average), prescale_factor, postscale_factor, process_set, grouped=True, copies=True
    )


def grouped_allreduce_async_(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    op: int | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> int:
    """Start to reduce `tensors` in place, all together; a handle."""
    return start_allreduce(list(tensors), name, op_of(op, average), prescale_factor, postscale_factor, process_set, grouped=True)


@ordered
def sparse_allreduce_async(
    tensor: torch.Tensor, name: str, op: int, process_set: ProcessSet = global_process_set
) -> Callable[[], torch.Tensor]:
    """Start to gather the rows of a sparse `tensor` of all ranks; call the result to wait for their Average or Sum, sparse."""
    there = named(process_set)
    indices = there.allgather([array_of(tensor._indices().t().contiguous())], f"{name}.indices", then=tensors_of)
    values = there.allgather([array_of(tensor._values().contiguous())], f"{name}.values", then=tensors_of)
    handles = register(indices), register(values)

    def finish() -> torch.Tensor:
        (rows,), (numbers,) = (synchronize(handle) for handle in handles)
        if op == Average:
            numbers = numbers / there.size
        return torch.sparse_coo_tensor(rows.t(), numbers, tensor.size(), check_invariants=False)

    return finish


def reducescatter_async(
    tensor: torch.Tensor,
    name: str | None = None,
    op: int = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> int:
    """Start to reduce `tensor`, of which this rank gets its rows: dealt evenly, one more for the first ranks. Average or Sum. A handle."""
    return start_reducescatter([tensor], name, op, process_set, prescale_factor, postscale_factor)


def grouped_reducescatter_async(
    tensors: Sequence[torch.Tensor],
    name: str | None = None,
    op: int = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> int:
    """The same for several tensors, all together."""
    return start_reducescatter(tensors, name, op, process_set, prescale_factor, postscale_factor, grouped=True)


@ordered
def start_reducescatter(
    tensors: Sequence[torch.Tensor],
    name: str | None,
    op: int,
    process_set: ProcessSet,
    prescale: float,
    postscale: float,
    grouped: bool = False,
    codec: str = "none",
) -> int:
    """Start to reduce `tensors`, of which this rank gets its rows; the handle. Its result is the tensor, or the tuple where `grouped`."""
    there, arrays = named(process_set), [array_of(x) for x in tensors]

    def result(outs: Any) -> Any:
        found = tensors_of(outs)
        return found if grouped else found[0]

    return register(there.reducescatter(arrays, name or "", op_name(op), prescale, postscale, codec, grouped, result))


@ordered
def plain_allreduce(
    tensors: Sequence[torch.Tensor],
    name: str | None,
    compression: Any,
    how: tuple[int, float, float, ProcessSet],
    grouped: bool,
) -> Any:
    """Reduce copies of `tensors`, and wait; without a derivative. how: op, factors before and after, process set."""
    codec = codec_of(compression, tensors[0].dtype.is_floating_point)
    contexts: list[Any] = []
    if codec is None:
        pairs = [compression.compress(x.detach()) for x in tensors]
        tensors, contexts = [x for x, _ in pairs], [context for _, context in pairs]
    with waiting(how[3]):
        outs = synchronize(start_allreduce(tensors, name, *how, grouped, codec or "none", copies=True))
    found = list(outs) if grouped else [outs]
    if codec is None:
        found = [compression.decompress(x, context) for x, context in zip(found, contexts, strict=True)]
    return tuple(found) if grouped else found[0]

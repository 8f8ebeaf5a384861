"""All-gather, broadcast and all-to-all; join and barrier. `_async`: a handle for `synchronize` at once.

Arguments: see `reductions`. root_rank is a rank of the job, also where a process set is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...errors import InvalidArgument
from ...torch.streams import ordered
from ..arguments import place_of, waiting
from ..basics import named
from ..handles import register
from ..process_sets import ProcessSet, global_process_set
from .memory import array_of, synchronize, tensors_of

__all__ = [
    "allgather_async",
    "alltoall_async",
    "barrier",
    "broadcast_",
    "broadcast_async",
    "broadcast_async_",
    "grouped_allgather_async",
    "join",
]


@ordered
def allgather_async(tensor: torch.Tensor, name: str | None = None, process_set: ProcessSet = global_process_set) -> int:
    """Start to gather all ranks' `tensor` along dimension 0, in rank order; first dimensions may differ. A handle."""
    return register(named(process_set).allgather([array_of(tensor)], name or "", then=lambda outs: tensors_of(outs)[0]))


@ordered
def grouped_allgather_async(tensors: Sequence[torch.Tensor], name: str | None = None, process_set: ProcessSet = global_process_set) -> int:
    """The same for several tensors, all together."""
    return register(named(process_set).allgather([array_of(x) for x in tensors], name or "", grouped=True, then=tensors_of))


def broadcast_async(tensor: torch.Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = global_process_set) -> int:
    """Start to send rank `root_rank`'s `tensor` to all, into a new one. A handle."""
    if not tensor.is_contiguous():
        raise InvalidArgument("Tensor is required to be contiguous.")
    return broadcast_async_(tensor.detach().clone(), root_rank, name, process_set)


@ordered
def broadcast_async_(tensor: torch.Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = global_process_set) -> int:
    """Start to overwrite `tensor` with rank `root_rank`'s. A handle."""

    def result() -> torch.Tensor:
        torch.autograd.graph.increment_version(tensor)
        return tensor

    array = array_of(tensor)
    return register(named(process_set).broadcast(array, place_of(root_rank, process_set), name or "", result))


def broadcast_(tensor: torch.Tensor, root_rank: int, name: str | None = None, process_set: ProcessSet = global_process_set) -> torch.Tensor:
    """Overwrite `tensor` with rank `root_rank`'s, and return it."""
    with waiting(process_set):
        found: torch.Tensor = synchronize(broadcast_async_(tensor, root_rank, name, process_set))
    return found


@ordered
def alltoall_async(tensor: torch.Tensor, splits: Any = None, name: str | None = None, process_set: ProcessSet = global_process_set) -> int:
    """Start to send rows of `tensor`: the next splits[r] to rank r; without splits the same number to each. A handle.

    Its result is the tensor of what has come, in rank order; with splits a pair of it and of the numbers of rows from each rank.
    """
    numbers = None
    if splits is not None:
        given = splits if isinstance(splits, torch.Tensor) else torch.tensor(splits, dtype=torch.int32)
        if given.dtype.is_floating_point or given.dtype == torch.bool:
            raise InvalidArgument("alltoall expects splits to contain 32-bit integer elements.")
        numbers = given.tolist()

    def result(out: Any, received: Sequence[int]) -> Any:
        (found,) = tensors_of([out])
        return found if splits is None else (found, torch.tensor(received, dtype=torch.int32))

    return register(named(process_set).alltoall(array_of(tensor), numbers, name or "", result))


def join(device: int = -1) -> int:
    """This rank has no more data: until all ranks have joined, zeros stand for it in the all-reduces of the others, averages included.

    The rank that joined last. device: as Horovod has it; the zeros are on the host here.
    """
    with waiting(global_process_set):
        return int(synchronize(register(named().join())))


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Return once all ranks have come here."""
    with waiting(process_set):
        synchronize(register(named(process_set).barrier()))

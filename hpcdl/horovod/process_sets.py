"""Process sets: some of the ranks, with operations of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from .errors import NotInitialized

if TYPE_CHECKING:
    from .job import Job

__all__ = ["ProcessSet", "add_process_set", "global_process_set", "remove_process_set"]


class ProcessSet:
    """Ranks that run operations together. Give it to `init`, or to `add_process_set`, on all ranks; then to any operation.

    ranks_or_comm: ranks of the job, or an mpi4py communicator of them. `process_set_id` is a number once the set is in use.
    """

    process_set_id: int | None = None
    ranks: list[int] | None = None
    mpi_comm: Any = None

    def __init__(self, ranks_or_comm: Any) -> None:
        if isinstance(ranks_or_comm, Iterable):
            ranks = sorted(ranks_or_comm)
            if any(not isinstance(rank, int) for rank in ranks):
                raise InvalidArgument("ProcessSet should be initialized with a list of process ranks or an mpi4py Comm object")
            self.ranks = ranks
        elif hasattr(ranks_or_comm, "Get_group"):
            self.mpi_comm = ranks_or_comm
        else:
            raise InvalidArgument("ProcessSet should be initialized with a list of process ranks or an mpi4py Comm object")

    def _invalidate(self) -> None:
        self.process_set_id = None

    def size(self) -> int | None:
        """The number of ranks; None if it is not in use."""
        return None if self.process_set_id is None else len(_job().members(self.process_set_id))

    def rank(self) -> int | None:
        """This rank's place in the set; None if the set is not in use. Operations such as broadcast take ranks of the job all the same."""
        if self.process_set_id is None:
            return None
        members = _job().members(self.process_set_id)
        if _job().rank not in members:
            raise InvalidArgument("Process is not part of provided process set.")
        return members.index(_job().rank)

    def included(self) -> bool | None:
        """Whether this rank belongs to it; None if its ranks are not known yet."""
        return None if self.ranks is None else _job().rank in self.ranks

    def __str__(self) -> str:
        return f"ProcessSet(process_set_id={self.process_set_id}, ranks={self.ranks}, mpi_comm={self.mpi_comm})"


#: All ranks.
global_process_set = ProcessSet([])
global_process_set.process_set_id = 0


def add_process_set(process_set: ProcessSet | Iterable[int]) -> ProcessSet:
    """Put a new set to use. Called on all ranks of the job, with the same ranks; needs ``init(process_sets="dynamic")``.

    Raises InvalidArgument where it is not, or where there is a set of the same ranks.
    """
    given = process_set if isinstance(process_set, ProcessSet) else ProcessSet(process_set)
    if given.ranks is None:
        raise NotImplementedError(
            "Dynamically adding process sets defined by an MPI communicator is not implemented. "
            "Please build the process set via a list of ranks."
        )
    job = _job()
    job.check_dynamic("adding")
    given.process_set_id = job.add(given.ranks)
    if given.process_set_id is None:
        raise InvalidArgument(f"Attempted to add a duplicate process set: {given}")
    return given


def remove_process_set(process_set: ProcessSet) -> bool:
    """Take a set out of use, on all ranks of the job; whether that was done. The set of all ranks stays."""
    number = process_set.process_set_id
    if not number:
        return False
    job = _job()
    job.check_dynamic("removing")
    process_set._invalidate()
    return job.remove(number)


def _job() -> Job:
    from .basics import job

    found = job()
    if found is None:
        raise NotInitialized
    return found

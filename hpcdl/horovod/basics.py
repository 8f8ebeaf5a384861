"""The job as Horovod sees it: begin and end, ranks, process sets, and what is built in."""

from __future__ import annotations

import atexit
import os
from typing import Any

from ..errors import InvalidArgument
from .errors import NotInitialized
from .job import DYNAMIC, Job
from .members import world_of
from .named import Named
from .process_sets import ProcessSet, global_process_set

__all__ = [
    "Adasum",
    "Average",
    "Max",
    "Min",
    "Product",
    "Sum",
    "ccl_built",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "gloo_built",
    "gloo_enabled",
    "init",
    "is_homogeneous",
    "is_initialized",
    "job",
    "local_rank",
    "local_size",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "named",
    "nccl_built",
    "op_name",
    "rank",
    "rocm_built",
    "shutdown",
    "size",
    "start_timeline",
    "stop_timeline",
]

Average, Sum, Adasum, Min, Max, Product = range(6)
_NAMES = ("average", "sum", "adasum", "min", "max", "product")

_job: Job | None = None
_last_words = False


def init(comm: Any = None, process_sets: Any = None) -> None:
    """Begin. comm: ranks of the job, in any order, or an mpi4py communicator; only they call this. Default: all. process_sets: a list of
    ProcessSet, or "dynamic". Collective.

    A second call does nothing; after `shutdown` it may be with fewer ranks than at first, not with others. Raises InvalidArgument where it
    is, and for a process set given twice; LaunchError where there is no MPI.
    """
    global _job, _last_words
    if _job is not None:
        return
    if isinstance(process_sets, str):
        if process_sets.lower() != "dynamic":
            raise InvalidArgument(f'process_sets must be a list of ProcessSet or "dynamic", got {process_sets!r}')
        os.environ[DYNAMIC] = "1"
        process_sets = None
    world = world_of(comm)
    _job = Job(world)
    global_process_set.ranks = list(range(world.size))
    global_process_set.process_set_id = 0
    for index, given in enumerate(process_sets or ()):
        if given.ranks is None:
            given.process_set_id, given.ranks = _job.add_split(given.mpi_comm)
        else:
            given.process_set_id = _job.add(given.ranks)
        if given.process_set_id is None:
            raise InvalidArgument(f"Horovod could not be initialized because process_sets entry number {index} is a duplicate: {given}")
    if not _last_words:
        _last_words = True
        atexit.register(_stop_recording)


def shutdown() -> None:
    """End; `init` may begin anew. Waits until all ranks have come to it."""
    global _job
    found, _job = _job, None
    if found is not None:
        if found.world.broken is None:
            found.close()
        global_process_set.ranks = []


def job() -> Job | None:
    """What `init` has made; None before it."""
    return _job


def named(process_set: ProcessSet = global_process_set) -> Named:
    """The operations of a process set."""
    return _begun().named(process_set)


def op_name(op: int) -> str:
    """The name of one of Average, Sum, Adasum, Min, Max, Product. Raises InvalidArgument for what is none."""
    if not isinstance(op, int) or not 0 <= op < len(_NAMES):
        raise InvalidArgument(f"unknown op {op!r}; known: Average, Sum, Adasum, Min, Max, Product")
    return _NAMES[op]


def is_initialized() -> bool:
    """Whether `init` was called, and `shutdown` not since."""
    return _job is not None


def rank() -> int:
    """This process's number."""
    return _begun().world.rank


def size() -> int:
    """The number of processes."""
    return _begun().world.size


def local_rank() -> int:
    """This process's number among those of its node."""
    return _begun().world.local_rank


def local_size() -> int:
    """The number of processes on this node."""
    return _begun().world.local_size


def cross_rank() -> int:
    """The number of this node among the nodes that have a process of this local rank."""
    there = _peers_across()
    return there.index(_begun().world.node)


def cross_size() -> int:
    """The number of nodes that have a process of this local rank."""
    return len(_peers_across())


def is_homogeneous() -> bool:
    """Whether all nodes have the same number of processes."""
    nodes = _begun().named(global_process_set).data.transport.nodes
    return len({nodes.count(node) for node in set(nodes)}) == 1


def start_timeline(file_path: str, mark_cycles: bool = False) -> None:
    """Record to `file_path` from now on, as a Chrome trace. Rank 0 writes. mark_cycles: there are no cycles here, so nothing is marked."""
    found = _begun()
    if found.rank == 0:
        with found.named(global_process_set).data.engine.locked():
            found.timeline.start(file_path)


def stop_timeline() -> None:
    """End the record."""
    found = _begun()
    with found.named(global_process_set).data.engine.locked():
        found.timeline.stop()


def mpi_threads_supported() -> bool:
    """Whether MPI may be called from several threads at once. Raises InvalidArgument before `init`."""
    return bool(_begun().named(global_process_set).data.transport.threaded)


def mpi_enabled() -> bool:
    """True: messages go over MPI."""
    return True


def mpi_built() -> bool:
    """True: messages go over MPI."""
    return True


def gloo_enabled() -> bool:
    """False: nothing here uses Gloo."""
    return False


def gloo_built() -> bool:
    """False: nothing here uses Gloo."""
    return False


def nccl_built() -> int:
    """0: nothing here uses NCCL."""
    return 0


def ddl_built() -> bool:
    """False: nothing here uses DDL."""
    return False


def ccl_built() -> bool:
    """False: nothing here uses oneCCL."""
    return False


def cuda_built() -> bool:
    """Whether arrays on NVIDIA GPUs can be reduced where they lie, which CuPy does."""
    from ..arrays import device_name

    return device_name(0).startswith("cuda")


def rocm_built() -> bool:
    """False: nothing here uses ROCm."""
    return False


def _begun() -> Job:
    if _job is None:
        raise NotInitialized
    return _job


def _peers_across() -> list[int]:
    found = _begun()
    nodes = found.named(global_process_set).data.transport.nodes
    return sorted(node for node in set(nodes) if nodes.count(node) > found.world.local_rank)


def _stop_recording() -> None:
    if _job is not None:
        _job.timeline.stop()

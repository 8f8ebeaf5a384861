"""The default world: made once, over MPI, and ended in good order whatever happens."""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from . import device_path as device_paths
from . import engine as engines
from .collectives.checks import check_timeout
from .errors import InvalidArgument, LaunchError
from .launch.env import check_world
from .launch.machine import cores
from .transport.base import Transport
from .transport.last_words import farewell, on_farewell
from .world import World

__all__ = ["adopt", "init", "numbers", "running", "thread_share"]

_lock = threading.Lock()
_world: World | None = None
_comm: Any = None


def init(comm: Any = None, timeout: float | None = None, engine: str | None = None, device_path: str | None = None) -> World:
    """The world of all ranks that mpirun or srun started together; a second call returns the same one. Collective.

    comm: an mpi4py communicator to use in place of COMM_WORLD, or ranks of it; only those call this then. timeout: seconds without progress
    after which an operation raises Stalled (default 600, or HPCDL_TIMEOUT). engine: who reduces, ``hpcdl`` (default, or HPCDL_ENGINE) or
    ``horovod``, an installed Horovod, which then does what `collective` ``auto`` would choose among sums, means, products of all ranks.
    device_path: how arrays on devices travel, ``nccl``, ``aware`` (addresses to a GPU-aware MPI), ``staged`` (through pinned host memory),
    or ``auto`` (default, or HPCDL_DEVICE_PATH): the first of these that can be; NCCL for sums, in which each rank has a device of its own.

    Raises LaunchError where no MPI library is found, where the launcher belongs to another one, where no Horovod fits, or where the device
    path cannot be.
    """
    global _comm
    with _lock:
        if _world is not None:
            if comm is not None and comm != _comm:
                raise InvalidArgument("init was called before with another communicator; use world.split or world.group for further ones")
            if engine is not None and engine != _world.engine:
                raise InvalidArgument(f"the world has the engine {_world.engine!r} already; it is chosen once")
            path = _world._group.devices.path.asked
            if device_path not in (None, path):
                raise InvalidArgument(f"the world has the device path {path!r} already; it is chosen once")
            return _world
        try:
            from .transport import mpi
        except (ImportError, RuntimeError) as error:
            raise LaunchError(
                f"mpi4py finds no MPI library ({error}); cure: load your site's MPI module, or pip install 'hpcdl[mpi]'"
            ) from error
        transport = mpi.world(comm)
        if comm is None:
            check_world(transport.size, transport.rank, mpi.library_version())
        _comm = comm
        mpi.before_finalize(_finish)
        words = engines.words(engine), device_paths.words(device_path, mpi=True)
        return _begin(transport, timeout, mpi.library_version(), words, lambda world, told: engines.start(world, told, comm))


def adopt(transport: Transport, timeout: float | None = None) -> World:
    """Make the default world of ranks that MPI has not started, over `transport`; `init` then gives it. Collective."""
    with _lock:
        if _world is not None:
            raise InvalidArgument("there is a default world already: adopt comes before init")
        return _begin(transport, timeout, "", ("", device_paths.words(None, mpi=False)), lambda world, told: None)


def _begin(
    transport: Transport, timeout: float | None, library: str, words: tuple[str, str], take_engine: Callable[[World, list[str]], None]
) -> World:
    global _world
    _world = World(transport, timeout)
    told, paths = _share_settings(_world, check_timeout(timeout), words)
    _world.settle_costs(library)
    try:
        device_paths.take(_world, paths)
        take_engine(_world, told)
    finally:  # afterwards, since what is arranged last for the end comes first, and Horovod arranges its own
        _end_in_order(_world, transport, os.getpid())
    return _world


def _share_settings(world: World, timeout: float, words: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Take over rank 0's time-out, as ranks on other nodes may have been given another environment; and every rank's words on
    engines and on device paths, by rank.

    One operation for all, since it counts among those that errors give numbers to.
    """
    told = [each.split("\n") for each in engines.gather(world, "\n".join([repr(timeout), *words]))]
    world.set_timeout(float(told[0][0]))
    return [each[1] for each in told], [each[2] for each in told]


def running() -> World | None:
    """The world that `init` made; None before that. Not collective."""
    return _world


def numbers(comm: Any = None) -> tuple[int, ...]:
    """The numbers in MPI's COMM_WORLD of the ranks of `comm`, a communicator or ranks; None: of the world that `init` made."""
    comm = _comm if comm is None else comm
    if comm is None:
        return () if _world is None else tuple(range(_world.size))
    from .transport import mpi

    return mpi.numbers(comm)


def thread_share(world: World) -> int:
    """Threads for this rank's computation: OMP_NUM_THREADS, or its share of the cores, at least 1. Collective.

    Why the masks are compared: a launcher that ties each rank to cores of its own has shared them out already.
    """
    mask = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    mine = np.array([[world.node, zlib.crc32(repr(mask).encode())]], np.int64)
    sharing = int((world.allgather(mine) == mine).all(axis=1).sum())
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(told) if told.isdecimal() and int(told) > 0 else max(1, cores() // sharing)


def _finish() -> None:
    """Leave the default world; before MPI ends."""
    if _world is None:
        return
    _world.close()
    if _world.broken is None:
        engines.finish()
    mpi = sys.modules.get(f"{__package__}.transport.mpi")
    if mpi is not None:
        if _world.broken is None:
            mpi.free_all()
        mpi.give_up_receives()


def _end_in_order(world: World, transport: Any, pid: int) -> None:
    """See to it that this rank tells the others when it ends, and that nobody hangs in MPI_Finalize."""
    previous = sys.excepthook

    def on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if os.getpid() != pid:
            previous(kind, error, trace)
            return
        print(f"rank {world.rank} of {world.size}:", file=sys.stderr)
        previous(kind, error, trace)
        if world.size > 1:
            if isinstance(sys.stderr, io.StringIO) and sys.__stderr__ is not None:  # somebody's hook wants to write it later, too late
                print(sys.stderr.getvalue(), end="", file=sys.__stderr__, flush=True)
            farewell(error)
            transport.abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    def at_exit() -> None:
        if os.getpid() != pid:
            return
        _finish()
        engines.part(world)
        if world.broken is not None:
            print(f"rank {world.rank} of {world.size} ends with a broken world, and so do all: {world.broken}", file=sys.stderr)
            transport.abort(1)

    sys.excepthook = on_exception
    atexit.register(at_exit)
    on_farewell(world.close)

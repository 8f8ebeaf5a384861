"""How torch.distributed comes to use MPI: the backend's name, and how a job begins without an address or a port."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from ...errors import InvalidArgument, LaunchError
from ...launch.env import place
from ...start import adopt, running
from ...transport.sockets import connect
from ...world import World
from ..start import init
from .group import ProcessGroup
from .store import make_store

__all__ = ["NAME", "init_process_group", "register"]

NAME = "hpcdl"
_RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init_process_group(timeout: float | timedelta | None = None, **options: Any) -> None:
    """Make torch.distributed ready, over MPI, for all ranks that mpirun or srun has started together. Collective.

    timeout: seconds (or a timedelta) without progress after which an operation raises Stalled on every rank; default HPCDL_TIMEOUT, or
    600. options: whatever else `torch.distributed.init_process_group` takes. Sets RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE where
    they are not set, as torchrun does: programs read them. Chooses device and threads as `hpcdl.torch.init` does, and raises what that
    does. Started by torchrun, without MPI, ranks talk over TCP.
    """
    if timeout is not None and not isinstance(timeout, timedelta):
        if not timeout > 0:
            raise InvalidArgument(f"timeout must be more than 0 seconds, got {timeout}")
        timeout = timedelta(seconds=timeout)
    if all(name in os.environ for name in _RENDEZVOUS) and _without_mpi(int(os.environ["WORLD_SIZE"])):
        dist.init_process_group(NAME, timeout=timeout, **options)
        return
    world = init()
    _tell_environment(world)
    store = make_store(world, timeout or default_pg_timeout)
    dist.init_process_group(NAME, store=store, rank=world.rank, world_size=world.size, timeout=timeout, **options)


def register() -> None:
    """Make the backend known to torch.distributed, once; and let ``env://`` find MPI's ranks where the variables say nothing."""
    if NAME.upper() in dist.Backend._plugins:
        return
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "0")  # torch 2.15's recorder of calls cannot follow a process group written in Python
    dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu", "cuda"])
    module = import_module("torch.distributed.rendezvous")  # its name in torch.distributed is a function's
    module.register_rendezvous_handler(NAME, _rendezvous)
    handlers: dict[str, Callable[..., Iterator[Any]]] = getattr(module, "_rendezvous_handlers", {})
    if "env" in handlers:
        handlers["env"] = _or_ours(handlers["env"])


def _create(options: Any, backend_options: Any = None) -> ProcessGroup:
    """A process group; called by torch, on its members only."""
    world = _world(options)
    ranks = list(options.global_ranks_in_group)
    parent = dist.distributed_c10d._get_default_group() if dist.is_initialized() else None
    if not ranks:
        members = _order(world, int(options.group_rank), int(options.group_size))
        collectives = world.new_group("torch.distributed", members)
        group = ProcessGroup(collectives, world.new_group("torch.distributed's messages", members, messages_only=True), options.store)
    else:
        within = parent._group if isinstance(parent, ProcessGroup) else world._group
        group = ProcessGroup.within(within, ranks, str(options.group_id), options.store)
    if options.timeout != default_pg_timeout:  # else nobody has chosen it, and HPCDL_TIMEOUT holds
        group.set_timeout(options.timeout)
    return group


def _world(options: Any) -> World:
    """The default world; made over TCP where torch tells of ranks that no MPI launcher has started."""
    if _without_mpi(int(options.group_size)):

        def exchange(text: str) -> list[str]:
            options.store.set(f"hpcdl/{options.group_rank}", text)
            return [options.store.get(f"hpcdl/{rank}").decode() for rank in range(options.group_size)]

        return adopt(connect(int(options.group_rank), int(options.group_size), exchange))
    return running() or init()  # sub-groups are made by their members only


def _without_mpi(size: int) -> bool:
    """Whether `size` ranks are about to begin that no MPI launcher has started: torchrun's, also where MPI's launcher has started that."""
    found = place()
    others = found is None or (found.size != size and "TORCHELASTIC_RUN_ID" in os.environ)
    return size > 1 and others and running() is None


def _order(world: World, rank: int, size: int) -> list[int]:
    """The world's rank of each of torch's."""
    if size != world.size:
        raise LaunchError(
            f"torch.distributed counts {size} ranks, and the world has {world.size}: it was made before, by hpcdl.init without MPI, or "
            f"there are two launchers; cure: start with 'hpcdl run -n {size}', mpirun or srun, or call init_process_group first"
        )
    everyone = [int(r) for r in world.allgather(np.array([rank]))]
    if sorted(everyone) != list(range(size)):
        raise LaunchError(f"torch.distributed's ranks must be 0 to {size - 1}, each once; MPI's ranks in order have {everyone}")
    return sorted(range(size), key=lambda r: everyone[r])


def _or_ours(handler: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The handler of ``env://``; where an MPI launcher has started this process and no variable is set, ours."""

    def wrapped(url: str, timeout: timedelta = default_pg_timeout, **parameters: Any) -> Iterator[Any]:
        ours = place() is not None and not any(name in os.environ for name in _RENDEZVOUS[2:])
        return _rendezvous(url, timeout, **parameters) if ours else handler(url, timeout=timeout, **parameters)

    return wrapped


def _rendezvous(url: str, timeout: timedelta = default_pg_timeout, **parameters: Any) -> Iterator[Any]:
    world = init()
    _tell_environment(world)
    yield make_store(world, timeout), world.rank, world.size
    raise RuntimeError("ranks of MPI stay the same until the end: there is no second rendezvous")


def _tell_environment(world: World) -> None:
    for name, value in (
        ("RANK", world.rank),
        ("WORLD_SIZE", world.size),
        ("LOCAL_RANK", world.local_rank),
        ("LOCAL_WORLD_SIZE", world.local_size),
    ):
        os.environ.setdefault(name, str(value))

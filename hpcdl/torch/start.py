"""The beginning of a PyTorch script: the world, this rank's device, its share of the cores, its random numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from .. import start
from ..errors import InvalidArgument
from ..world import World

__all__ = ["default_world", "init", "seed_rank"]

_settled: World | None = None  # the world for which this process has been set up


def init(
    comm: Any = None, timeout: float | None = None, seed: int | None = None, engine: str | None = None, device_path: str | None = None
) -> World:
    """The world of all ranks that mpirun or srun started together; a second call returns the same one. Collective.

    comm, timeout, engine, device_path: see `hpcdl.init`. seed: a whole number from 0; Python's `random`, NumPy's global generator and
    torch's are then seeded by it and the rank, so that dropout and augmentation differ between the ranks and are the same in every run.
    Without it nothing is seeded. Models made after it begin with other values on each rank; `DistributedDataParallel` gives all of them
    rank 0's.

    It sets what else is one per process: `world.device` is ``cuda:N`` by the local rank where torch finds GPUs (and the current device of
    torch), else ``cpu``; torch gets as many threads as OMP_NUM_THREADS says, or else this rank's share of the cores, at least 1.

    Raises LaunchError where no MPI library is found, or where the launcher belongs to another one.
    """
    global _settled
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise InvalidArgument(f"seed must be a whole number from 0, got {seed!r}")
    world = start.init(comm, timeout, engine, device_path)
    if _settled is not world:
        _settled = world
        _take_device(world)
        torch.set_num_threads(start.thread_share(world))
    if seed is not None:
        seed_rank(seed, world.rank)
    return world


def default_world() -> World:
    """The world that `init` made. Raises InvalidArgument before that. Not collective."""
    world = start.running()
    if world is None:
        raise InvalidArgument("there is no world yet; call hpcdl.torch.init() first, on every rank, or pass world=…")
    return world


def seed_rank(seed: int, rank: int) -> None:
    """Seed Python's, NumPy's and torch's global generators by a function of (seed, rank)."""
    words = np.random.SeedSequence((seed, rank)).generate_state(6)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:4])
    torch.manual_seed(int.from_bytes(words[4:].tobytes(), "little") >> 1)


def _take_device(world: World) -> None:
    """Choose this rank's GPU, where there is one."""
    if torch.cuda.is_available():
        world.device = f"cuda:{world.local_rank % torch.cuda.device_count()}"
        torch.cuda.set_device(world.device)

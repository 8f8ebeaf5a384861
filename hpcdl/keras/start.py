"""The beginning of a Keras script: the world, this rank's device, its share of the cores, its random numbers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .. import start
from ..errors import InvalidArgument
from ..world import World
from .backends import current

__all__ = ["default_world", "init", "local_rank", "local_size", "rank", "settle", "size"]

_settled: World | None = None  # the world for which this process has been set up


def init(comm: Any = None, timeout: float | None = None, seed: int | None = None) -> World:
    """The world of all ranks that mpirun or srun started together; a second call returns the same one. Collective.

    comm, timeout: see `hpcdl.init`. seed: a whole number from 0; ``keras.utils.set_random_seed`` is then called with a function of it and
    the rank, so that dropout and augmentation differ between the ranks and are the same in every run. Without it nothing is seeded.
    TensorFlow's own seed differs then too: before a ``tf.data`` pipeline that shuffles, and that all ranks are to read alike, call
    ``tf.random.set_seed``.

    Call it before the first model or tensor is made: the backend then takes this local rank's GPU, where it finds any, and this rank's
    share of the cores (OMP_NUM_THREADS, where that is set).

    Raises LaunchError where no MPI library is found, or where the launcher belongs to another one.
    """
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise InvalidArgument(f"seed must be a whole number from 0, got {seed!r}")
    world = start.init(comm, timeout)
    settle(world)
    if seed is not None:
        keras.utils.set_random_seed(int(np.random.SeedSequence((seed, world.rank)).generate_state(1)[0] >> 1))
    return world


def settle(world: World) -> None:
    """This process takes its device and its threads, once for each world. Before the backend's first operation."""
    global _settled
    if _settled is not world:
        _settled = world
        current().settle(world, start.thread_share(world))


def default_world() -> World:
    """The world that `init` made. Raises InvalidArgument before that. Not collective."""
    world = start.running()
    if world is None:
        raise InvalidArgument("there is no world yet; call hpcdl.keras.init() first, on every rank, or pass world=…")
    return world


def rank() -> int:
    """This process's number in the default world, from 0."""
    return default_world().rank


def size() -> int:
    """How many ranks the default world has."""
    return default_world().size


def local_rank() -> int:
    """This process's number among the ranks of its node."""
    return default_world().local_rank


def local_size() -> int:
    """How many ranks of the default world are on this node."""
    return default_world().local_size

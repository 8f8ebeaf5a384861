"""Ranks and sizes as tensors, found when a graph runs and not when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from .. import basics
from ..errors import NotInitialized
from .bridge import run

__all__ = ["local_rank_op", "local_size_op", "process_set_included_op", "rank_op", "size_op"]

_NOT_INITIALIZED, _UNKNOWN_SET = -1, -3  # Horovod's codes


def size_op(process_set_id: int = 0, name: str | None = None) -> Any:
    """The number of ranks of a process set."""
    return _number(lambda: len(_members(process_set_id)), name or "HorovodSize")


def process_set_included_op(process_set_id: int = 0, name: str | None = None) -> Any:
    """1 if this rank belongs to the set, else 0; -1 before `init`, -3 where there is no such set."""

    def included() -> int:
        try:
            return int(basics.rank() in _members(process_set_id))
        except NotInitialized:
            return _NOT_INITIALIZED
        except ValueError:
            return _UNKNOWN_SET

    return _number(included, name or "HorovodProcessSetIncluded")


def local_size_op(name: str | None = None) -> Any:
    """The number of ranks on this node."""
    return _number(basics.local_size, name or "HorovodLocalSize")


def rank_op(name: str | None = None) -> Any:
    """This process's number."""
    return _number(basics.rank, name or "HorovodRank")


def local_rank_op(name: str | None = None) -> Any:
    """This process's number among those of its node."""
    return _number(basics.local_rank, name or "HorovodLocalRank")


def _members(process_set_id: int) -> tuple[int, ...]:
    job = basics.job()
    if job is None:
        raise NotInitialized
    return job.members(process_set_id)


def _number(find: Any, name: str) -> Any:
    (found,) = run(lambda: [np.int32(find())], [], [tf.int32], name)
    found.set_shape([])
    return found

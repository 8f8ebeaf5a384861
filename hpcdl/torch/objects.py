"""Python objects among ranks, by pickle: for settings and results, not for data on the hot path.

Unpickling runs code that the bytes name; they come from the ranks of this job and from nowhere else.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from ..errors import InvalidArgument
from ..world import World
from .start import default_world

__all__ = ["allgather_object", "broadcast_object"]


def broadcast_object(x: Any = None, root: int = 0, world: World | None = None) -> Any:
    """Rank `root`'s object, on every rank; `x` of the others is ignored. Pickled; two broadcasts.

    Raises InvalidArgument, on every rank, where it cannot be pickled.
    """
    world = default_world() if world is None else world
    data, good = _dump(x) if world.rank == root else (b"", True)
    size, well = world.broadcast(np.array([len(data), good], np.int64), root).tolist()
    payload = np.frombuffer(data, np.uint8).copy() if world.rank == root else np.empty(size, np.uint8)
    data = world.broadcast(payload, root).tobytes()
    if not well:
        raise InvalidArgument(f"rank {root} of {world.size}: the object cannot be pickled ({data.decode()}); send what can be")
    return x if world.rank == root else pickle.loads(data)


def allgather_object(x: Any, world: World | None = None) -> list[Any]:
    """Every rank's object, in rank order, on every rank. Pickled; two all-gathers.

    Raises InvalidArgument, on every rank, where one cannot be pickled.
    """
    world = default_world() if world is None else world
    data, good = _dump(x)
    table = world.allgather(np.array([[len(data), good]], np.int64))
    everything = world.allgather(np.frombuffer(data, np.uint8).copy()).tobytes()
    ends = np.cumsum(table[:, 0]).tolist()
    parts = [everything[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    for rank, well in enumerate(table[:, 1]):
        if not well:
            raise InvalidArgument(f"rank {rank} of {world.size}: the object cannot be pickled ({parts[rank].decode()}); send what can be")
    return [pickle.loads(part) for part in parts]


def _dump(x: Any) -> tuple[bytes, bool]:
    """The pickled object; or why it cannot be, and False."""
    try:
        return pickle.dumps(x), True
    except Exception as error:  # whatever a class raises
        return f"{type(error).__name__}: {error}".encode(), False

"""Python objects from one rank to the others, and from all to all.

Objects travel by pickle (by cloudpickle where it is installed). Unpickling runs code that the bytes name; they come from the ranks of
this job and from nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InvalidArgument
from .arguments import place_of, waiting
from .basics import named, rank
from .handles import register, synchronize
from .process_sets import ProcessSet, global_process_set

__all__ = ["allgather_object", "broadcast_object"]


def broadcast_object(obj: Any, root_rank: int = 0, name: str | None = None, process_set: ProcessSet = global_process_set) -> Any:
    """Rank `root_rank`'s object, on every rank; what the others give is ignored. Two broadcasts.

    Raises InvalidArgument, on every rank, where it cannot be pickled.
    """
    name, there = name or "broadcast_object", named(process_set)
    place = place_of(root_rank, process_set)
    data, good = _dump(obj) if rank() == root_rank else (b"", True)
    head = np.array([len(data), good], np.int64)
    with waiting(process_set):
        synchronize(register(there.broadcast(head, place, f"{name}.sz")))
        size, well = head.tolist()
        bytes_ = np.frombuffer(bytearray(data), np.uint8) if data else np.empty(size, np.uint8)
        synchronize(register(there.broadcast(bytes_, place, f"{name}.t")))
    if not well:
        raise InvalidArgument(f"the object of rank {root_rank} cannot be pickled ({bytes_.tobytes().decode()}); send what can be")
    return obj if rank() == root_rank else pickle.loads(bytes_.tobytes())


def allgather_object(obj: Any, name: str | None = None, process_set: ProcessSet = global_process_set) -> list[Any]:
    """Every rank's object, in rank order, on every rank. Two all-gathers.

    Raises InvalidArgument, on every rank, where one cannot be pickled.
    """
    name, there = name or "allgather_object", named(process_set)
    data, good = _dump(obj)
    with waiting(process_set):
        (heads,) = synchronize(register(there.allgather([np.array([[len(data), good]], np.int64)], f"{name}.sz")))
        (bytes_,) = synchronize(register(there.allgather([np.frombuffer(bytearray(data), np.uint8)], f"{name}.t")))
    found, begin = [], 0
    for size, _ in heads.tolist():
        found.append(bytes_[begin : begin + size].tobytes())
        begin += size
    for peer, (_, well) in enumerate(heads.tolist()):
        if not well:
            raise InvalidArgument(f"the object of rank {peer} of {there.size} cannot be pickled ({found[peer].decode()}); send what can be")
    return [pickle.loads(part) for part in found]


def _dump(x: Any) -> tuple[bytes, bool]:
    """The pickled object; or why it cannot be, and False."""
    dumps: Callable[[Any], bytes] = pickle.dumps
    if importlib.util.find_spec("cloudpickle") is not None:
        dumps = importlib.import_module("cloudpickle").dumps
    try:
        return dumps(x), True
    except Exception as error:  # whatever a class raises
        return f"{type(error).__name__}: {error}".encode(), False

"""The same beginning on all ranks: variables and Python objects from one rank to the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ...arrays import Array
from .. import objects
from ..arguments import place_of
from ..basics import named
from ..process_sets import ProcessSet, global_process_set
from .bridge import finish, start, tensor_of, unique

__all__ = [
    "BroadcastGlobalVariablesHook",
    "allgather_object",
    "broadcast_",
    "broadcast_global_variables",
    "broadcast_object",
    "broadcast_object_fn",
    "broadcast_variables",
]


def broadcast_variables(
    variables: Sequence[Any], root_rank: int, process_set: ProcessSet = global_process_set, inplace: bool = False
) -> Any:
    """Overwrite variables, TensorFlow's or Keras's, with rank `root_rank`'s. All are under way at once.

    In a graph: the operation that does it. Raises HorovodInternalError, on every rank, where the ranks' variables differ.
    """
    assigned = _assigned(variables, root_rank, None, process_set)
    return None if tf.executing_eagerly() else tf.group(*assigned)


def broadcast_(
    variables: Sequence[Any], root_rank: int, name: str | None = None, process_set: ProcessSet = global_process_set
) -> list[Any]:
    """The same; the new values."""
    with tf.control_dependencies(_assigned(variables, root_rank, name, process_set)):
        return [tf.identity(v) for v in variables]


def broadcast_global_variables(root_rank: int) -> Any:
    """The operation that broadcasts all variables of a graph of TensorFlow 1. Raises RuntimeError where TensorFlow executes eagerly."""
    if tf.executing_eagerly():
        raise RuntimeError(
            "hvd.broadcast_global_variables() does not support eager execution. "
            "Please use `hvd.broadcast_variables(<model/optimizer variables>)` instead."
        )
    return broadcast_variables(tf.compat.v1.global_variables(), root_rank)


class BroadcastGlobalVariablesHook(tf.compat.v1.train.SessionRunHook):
    """For sessions of TensorFlow 1: broadcasts all variables once they are initialised. device: Horovod's, does nothing here."""

    def __init__(self, root_rank: int, device: str = "") -> None:
        super().__init__()
        self.root_rank, self.device, self.bcast_op = root_rank, device, None

    def begin(self) -> None:
        """Called by TensorFlow before the graph is finished."""
        if self.bcast_op is None or self.bcast_op.graph != tf.compat.v1.get_default_graph():
            self.bcast_op = broadcast_global_variables(self.root_rank)

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Called by TensorFlow once there is a session."""
        session.run(self.bcast_op)


def broadcast_object(
    obj: Any, root_rank: int = 0, session: Any = None, name: str | None = None, process_set: ProcessSet = global_process_set
) -> Any:
    """Rank `root_rank`'s object, on every rank, at once. session: not needed here. See `hpcdl.horovod.objects`."""
    return objects.broadcast_object(obj, root_rank, name, process_set)


def broadcast_object_fn(
    root_rank: int = 0, session: Any = None, name: str | None = None, process_set: ProcessSet = global_process_set
) -> Callable[[Any], Any]:
    """A function that broadcasts the object it is given."""
    return lambda obj: objects.broadcast_object(obj, root_rank, name or "broadcast_object_fn", process_set)


def allgather_object(obj: Any, session: Any = None, name: str | None = None, process_set: ProcessSet = global_process_set) -> list[Any]:
    """Every rank's object, in rank order, on every rank, at once. session: not needed here."""
    return objects.allgather_object(obj, name, process_set)


def _assigned(variables: Sequence[Any], root_rank: int, name: str | None, process_set: ProcessSet) -> list[Any]:
    there, place = named(process_set), place_of(root_rank, process_set)

    def begin(told: str) -> Callable[[Array], Any]:
        return lambda x: there.broadcast(x, place, told, lambda: [x])

    values = [tensor_of(v) for v in variables]
    prefix = name or "HorovodBroadcast"
    handles = [
        start(begin(unique(f"{prefix}_{i}_{re.sub('[^a-zA-Z0-9_]', '_', v.name)}")), [x], "HorovodBroadcast")
        for i, (v, x) in enumerate(zip(variables, values, strict=True))
    ]
    sent = finish(handles, [x.dtype for x in values], "HorovodBroadcast", process_set) if handles else []
    for x, value in zip(sent, values, strict=True):
        x.set_shape(value.shape)
    return [v.assign(x) for v, x in zip(variables, sent, strict=True)]

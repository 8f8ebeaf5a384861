"""From TensorFlow's tensors to the named operations and back: at once, or as part of a graph, which calls Python then.

XLA cannot call Python: a function with ``jit_compile=True`` cannot hold any of this.

Why more threads than cores: in a graph of TensorFlow 1 operations have no order, and each that waits for other ranks holds one of the
threads that run the graph. Were all of them held on each rank by other operations, nobody would come to those that the others wait for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ...errors import CommunicationError
from ..arguments import waiting
from ..handles import register, synchronize
from ..process_sets import ProcessSet
from ..request import Request

__all__ = ["finish", "name_of", "operate", "run", "start", "tensor_of", "unique", "within"]

_THREADS = 32  # operations that may wait at a time in a graph of TensorFlow 1

if (os.cpu_count() or 1) < _THREADS:
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(_THREADS))  # read once, by TensorFlow's first operation


def run(work: Callable[..., Sequence[Any]], tensors: Sequence[Any], dtypes: Sequence[Any], label: str) -> list[Any]:
    """What `work` makes of NumPy arrays, copies of `tensors`, as tensors of `dtypes`. In a graph: when it runs, in the program's order."""

    def on_host(*arrays: Any) -> list[Any]:
        return list(work(*(np.array(x) for x in arrays)))

    if tf.executing_eagerly():
        return [tf.convert_to_tensor(x) for x in on_host(*tensors)]
    return list(tf.numpy_function(on_host, list(tensors), list(dtypes), name=label))


def operate(begin: Callable[..., Request], tensors: Sequence[Any], dtypes: Sequence[Any], label: str, process_set: ProcessSet) -> list[Any]:
    """The result, arrays of `dtypes`, of the operation that `begin` starts with copies of `tensors`."""
    return run(lambda *arrays: within(process_set, lambda: begin(*arrays)), tensors, dtypes, label)


def within(process_set: ProcessSet, begin: Callable[[], Request]) -> Any:
    """The result of the operation that `begin` starts; this thread waits for it."""
    with waiting(process_set):
        return synchronize(register(begin()))


def start(begin: Callable[..., Request], tensors: Sequence[Any], label: str) -> Any:
    """The same without waiting: a handle for `finish`, as a tensor."""
    return run(lambda *arrays: [np.int64(register(begin(*arrays)))], tensors, [tf.int64], label)[0]


def finish(handles: Sequence[Any], dtypes: Sequence[Any], label: str, process_set: ProcessSet) -> list[Any]:
    """Wait for all operations; the arrays that they result in, one after the other. Raises the first error once all have ended."""

    def work(*numbers: Any) -> list[Any]:
        found: list[Any] = []
        failed: CommunicationError | None = None
        with waiting(process_set):
            for number in numbers:
                try:
                    found += synchronize(int(number))
                except CommunicationError as error:
                    failed = failed or error
        if failed is not None:
            raise failed
        return found

    return run(work, handles, dtypes, label)


def tensor_of(x: Any) -> Any:
    """`x`, a tensor, variable or anything that makes a tensor, as a tensor; in a graph one with a name."""
    found = tf.convert_to_tensor(x)
    return tf.identity(found) if not tf.executing_eagerly() and isinstance(found, tf.__internal__.EagerTensor) else found


def name_of(kind: str, tensors: Sequence[Any], name: str | None, ignore_name_scope: bool = False) -> str:
    """The name under which ranks find each other: in a graph from the tensors' names and the scope, as Horovod derives it.

    Eagerly a call without a name is matched by its number, "".
    """
    if tf.executing_eagerly():
        return name or ""
    if name is None:
        ends = tensors[:1] if len(tensors) == 1 else (tensors[0], tensors[-1])
        name = re.sub("[^a-zA-Z0-9_]", "_", "_".join([f"Horovod{kind}", *(x.name for x in ends)]))
    told = unique(name)
    return told.rpartition("/")[2] if ignore_name_scope else told


def unique(name: str) -> str:
    """`name` within its scope, and with a number where the graph has it already: without an order, two may be under way at a time."""
    return name if tf.executing_eagerly() else str(tf.compat.v1.get_default_graph().unique_name(name))

"""What Horovod's calls are given, on any framework: an op or the older `average`, ranks of the job, and who waits."""

from __future__ import annotations

import warnings
from typing import Any

from ..collectives.progress import Engine
from ..errors import InvalidArgument
from .basics import Average, Sum, named
from .process_sets import ProcessSet

__all__ = ["check_predivide", "groups_of", "identity", "op_of", "place_of", "waiting"]


def op_of(op: int | None, average: bool | None) -> int:
    """The op that is meant by `op` and the older `average`, of which only one may be given."""
    if op is not None and average is not None:
        raise InvalidArgument("The op parameter supersedes average. Please provide only one of them.")
    if op is not None:
        return op
    return Average if average in (None, True) else Sum


def check_predivide(factor: float, op: int) -> None:
    """Raise InvalidArgument where gradients are to be divided before the sum and there is no average to complete it."""
    if factor != 1.0 and op != Average:
        raise InvalidArgument("gradient_predivide_factor not supported with op != Average")


def groups_of(groups: Any, num_groups: int) -> Any:
    """`groups`, or the older `num_groups`. Raises InvalidArgument for what is neither None, a number from 1, nor a list of lists."""
    if num_groups != 0:
        warnings.warn("Parameter `num_groups` has been replaced by `groups`.", DeprecationWarning, stacklevel=3)
        groups = num_groups if groups is None else groups
    if groups is not None and not isinstance(groups, list) and not (isinstance(groups, int) and groups > 0):
        raise InvalidArgument("groups should be a non-negative integer or a list of list of tf.Variable.")
    return groups


def identity(variable: Any) -> int:
    """What two names of one variable have in common, TensorFlow's and Keras's."""
    return id(getattr(variable, "handle", variable))


def place_of(root_rank: int, process_set: ProcessSet) -> int:
    """The place of a rank of the job in a process set. Raises InvalidArgument where it is not in it."""
    members = list(range(named(process_set).size)) if process_set.process_set_id == 0 else process_set.ranks or []
    if root_rank not in members:
        raise InvalidArgument(f"broadcast received invalid root rank {root_rank} for provided process set; its ranks are {members}")
    return members.index(root_rank)


def waiting(process_set: ProcessSet) -> Engine:
    """As a context: this thread is about to wait, and drives the progress loop itself."""
    engine: Engine = named(process_set).data.engine
    return engine

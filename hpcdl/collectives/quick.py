"""The short way of a blocking all-reduce inside a node: no operation, no request, no second thread; some microseconds.

It does what the long way would do, behind the same check of headers, as long as all ranks come within `_SPIN`; if they don't, or anything
is wrong, it becomes an ordinary operation where it stands.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import numpy as np

from ..arrays import Array
from ..codecs import Codec
from ..transport.base import Pending
from .board import Board
from .calls import Constant, task_for
from .execute import Body
from .group import Group
from .operation import Operation
from .ops import Op
from .progress import give_way
from .recipe import Recipe, recipe_for
from .shared_memory import one_step, reduce_all

__all__ = ["allreduce"]

_SPIN = 100e-6  # seconds of looking for the others before the progress loop takes over
_LOOKS = 12  # some microseconds
_MOST_BYTES = 1 << 22  # beyond, the loop's microseconds do not count, and other operations must have their turn meanwhile


def allreduce(group: Group, x: Array, op: Op | str, codec: Codec | str | None, collective: str, name: str) -> bool:
    """Reduce `x` in place if it can go the short way; whether it has."""
    board = group.buffers.board
    if board is None or type(x) is not np.ndarray or group.engine.busy():
        return False
    if x.nbytes > _MOST_BYTES or not x.flags.carray:
        return False
    place, neighbours = group.buffers.find(x)
    recipe = recipe_for(group, x, op, codec, collective, place=place, name=name)
    if recipe.work_dtype != x.dtype or (
        recipe.views is None and (recipe.collective != "shared-memory" or board.size < group.transport.size)
    ):
        return False
    with group.engine.locked():
        if group.broken is not None or group.left or not board.turns.idle():
            return False
        operation = board.quiet.run(_at_once, group, board, recipe, x, neighbours)
        if operation is None:
            return True
        group.submit(operation)
    operation.wait()
    return True


def _at_once(group: Group, board: Board, recipe: Recipe, x: Array, neighbours: list[Array] | None) -> Operation | None:
    """Do it; what is left to do if it cannot be done at once."""
    number, history = group.count(recipe.fingerprint)
    body: Body
    if recipe.views is not None:
        body, factor = one_step(board, recipe.views, x, recipe.op, number, history), recipe.factor
    else:
        scale = Constant(1 / group.transport.size) if recipe.op.averages else None
        task = task_for(group, recipe, x.reshape(-1), 0, np.array([number, history]), scale, neighbours=neighbours)
        body, factor = reduce_all(task, board), None
    pending: Pending | None = None
    looks = _LOOKS if board.roomy else 1
    try:
        for pending in body:
            if not _comes(pending, looks):
                break
        else:
            if factor is not None:
                np.multiply(x, factor, out=x)
            group.remember(number, recipe.signature)
            return None
    except BaseException as error:  # the operation is lost, and all ranks must hear of it
        body = _raise(error)
    return Operation(group, number, recipe.signature, _the_long_way(board, pending, body, x, factor))


def _comes(pending: Pending, looks: int) -> bool:
    """Whether it is done within some microseconds. looks: how often to look before giving the core away."""
    for _ in range(looks):
        if pending.done():
            return True
    end = time.perf_counter() + _SPIN
    while not pending.done():
        if time.perf_counter() > end:
            return False
        give_way()
    return True


def _the_long_way(board: Board, pending: Pending | None, rest: Body, x: Array, factor: Any) -> Body:
    turn = board.turns.take()
    if pending is not None:
        yield pending
    yield from rest
    if factor is not None:
        np.multiply(x, factor, out=x)
    turn.passed = True
    return x


def _raise(error: BaseException) -> Generator[Any, None, None]:
    raise error
    yield

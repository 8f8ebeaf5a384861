"""The short way of a blocking all-reduce inside a node: no operation, no request, no second thread; some microseconds.

It does what the long way would do, behind the same check of headers, as long as all ranks come within a millisecond; if they don't, or
anything is wrong, it becomes an ordinary operation where it stands.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ..arrays import Array
from ..codecs import Codec
from ..transport.base import Pending
from .backoff import comes
from .board import Board, Sides
from .calls import Constant, task_for
from .execute import Body
from .group import Group
from .operation import Operation
from .ops import Op
from .recipe import Recipe, recipe_for
from .shared_memory import read, reduce_all, write

__all__ = ["allreduce"]

_MOST_BYTES = 1 << 22  # beyond, the loop's microseconds do not count, and other operations must have their turn meanwhile


def allreduce(
    group: Group,
    x: Array,
    op: Op | str,
    codec: Codec | str | None,
    collective: str,
    name: str,
    weight: float | None = None,
    factor: float | None = None,
) -> bool:
    """Reduce `x` in place if it can go the short way; whether it has. weight: of this rank's share; factor: of the sum; both or none."""
    board = group.buffers.board
    if board is None or type(x) is not np.ndarray or group.engine.busy():
        return False
    if x.nbytes > _MOST_BYTES or not x.flags.carray:
        return False
    place, neighbours = group.buffers.find(x)
    recipe = recipe_for(group, x, op, codec, collective, weight is not None, place=place, name=name)
    if not recipe.on_board:
        return False
    with group.engine.locked():
        if group.broken is not None or group.left or not board.turns.idle():
            return False
        if factor is None and recipe.op.averages:
            factor = 1 / group.transport.size
        operation = board.quiet.run(_reduce, group, board, recipe, x, neighbours, weight, factor)
        if operation is None:
            return True
        group.submit(operation, wake=False)
    operation.wait()
    return True


def _reduce(
    group: Group, board: Board, recipe: Recipe, x: Array, neighbours: Sequence[Array] | None, weight: float | None, factor: float | None
) -> Operation | None:
    """Do it; what is left to do if it cannot be done at once."""
    if weight == 0:
        x[...] = 0  # not a product: it may hold anything, NaN included
    elif weight not in (None, 1):
        np.multiply(x, x.dtype.type(weight), out=x)
    if recipe.views is None:
        return _in_steps(group, board, recipe, x, neighbours, factor)
    return _in_one_step(group, board, recipe, x, factor)


def _in_one_step(group: Group, board: Board, recipe: Recipe, x: Array, factor: float | None) -> Operation | None:
    number, history = group.count(recipe.fingerprint)
    views, posted = recipe.views, None
    assert views is not None
    rest: Body
    try:
        posted = write(board, views, x, number, history)
        if posted.done() or comes(posted, board.roomy):
            _end(board, recipe, views, x, number, history, factor)
            group.remember(number, recipe.signature)
            return None
        rest = _ending(board, recipe, views, x, number, history, factor)
    except BaseException as error:  # the operation is lost, and all ranks must hear of it
        rest = _raise(error)
    return Operation(group, number, recipe.signature, _the_long_way(board, posted, rest, x))


def _in_steps(
    group: Group, board: Board, recipe: Recipe, x: Array, neighbours: Sequence[Array] | None, factor: float | None
) -> Operation | None:
    """The same for larger arrays, and those that lie in shared memory."""
    number, history = group.count(recipe.fingerprint)
    scale = None if factor is None else Constant(factor)
    task = task_for(group, recipe, x.reshape(-1), 0, np.array([number, history]), scale, neighbours=neighbours)
    rest, pending = reduce_all(task, board), None
    try:
        for pending in rest:
            if not (pending.done() or comes(pending, board.roomy)):
                break
        else:
            group.remember(number, recipe.signature)
            return None
    except BaseException as error:
        rest = _raise(error)
    return Operation(group, number, recipe.signature, _the_long_way(board, pending, rest, x))


def _end(board: Board, recipe: Recipe, views: Sides, x: Array, number: int, history: int, factor: float | None) -> None:
    read(board, views, x, recipe.op, number, history)
    if factor is not None:
        np.multiply(x, x.dtype.type(factor), out=x)


def _ending(board: Board, recipe: Recipe, views: Sides, x: Array, number: int, history: int, factor: float | None) -> Body:
    _end(board, recipe, views, x, number, history, factor)
    return
    yield


def _the_long_way(board: Board, pending: Pending | None, rest: Body, x: Array) -> Body:
    turn = board.turns.take()
    if pending is not None:
        yield pending
    yield from rest
    turn.passed = True
    return x


def _raise(error: BaseException) -> Generator[Any, None, None]:
    raise error
    yield

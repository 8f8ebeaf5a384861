"""The short way of a small blocking all-reduce inside a node: no operation, no request, no second thread; some microseconds.

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
from .execute import Body
from .group import Group
from .operation import Operation
from .ops import Op
from .progress import give_way
from .recipe import Recipe, recipe_for
from .shared_memory import one_step

__all__ = ["allreduce"]

_SPIN = 100e-6  # seconds of looking for the others before the progress loop takes over


def allreduce(group: Group, x: Array, op: Op | str, codec: Codec | str | None, collective: str, name: str) -> bool:
    """Reduce `x` in place if it can go the short way; whether it has."""
    board = group.buffers.board
    if board is None or type(x) is not np.ndarray or group.engine.busy():
        return False
    recipe = recipe_for(group, x, op, codec, collective, name=name)
    if not recipe.short or recipe.work_dtype != x.dtype or not x.flags.carray:
        return False
    with group.engine.locked():
        if group.broken is not None or group.left or not board.turns.idle():
            return False
        operation = board.quiet.run(_at_once, group, board, recipe, x)
        if operation is None:
            return True
        group.submit(operation)
    operation.wait()
    return True


def _at_once(group: Group, board: Board, recipe: Recipe, x: Array) -> Operation | None:
    """Do it; what is left to do if it cannot be done at once."""
    number, history = group.count(recipe.fingerprint)
    body = one_step(board, x, recipe.op, number, history)
    posted: Pending | None = None
    try:
        posted = next(body)
        if _comes(posted):
            next(body, None)
            if recipe.factor is not None:
                np.multiply(x, recipe.factor, out=x)
            group.remember(number, recipe.signature)
            return None
    except BaseException as error:  # the operation is lost, and all ranks must hear of it
        body = _raise(error)
    return Operation(group, number, recipe.signature, _the_long_way(board, posted, body, x, recipe.factor))


def _comes(posted: Pending) -> bool:
    """Whether all have posted, within some microseconds."""
    if posted.done():
        return True
    end = time.perf_counter() + _SPIN
    while not posted.done():
        if time.perf_counter() > end:
            return False
        give_way()
    return True


def _the_long_way(board: Board, posted: Pending | None, rest: Generator[Any, None, None], x: Array, factor: Any) -> Body:
    turn = board.turns.take()
    if posted is not None:
        yield posted
    yield from rest
    if factor is not None:
        np.multiply(x, factor, out=x)
    turn.passed = True
    return x


def _raise(error: BaseException) -> Generator[Any, None, None]:
    raise error
    yield

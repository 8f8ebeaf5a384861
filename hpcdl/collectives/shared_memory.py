"""All-reduce inside a node: ranks reduce straight out of each other's memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np

from ..arrays import HOST, Array
from .board import Board, Posted, Sides
from .execute import Body
from .layout import pieces, split_blocks
from .ops import Op
from .task import Task

__all__ = ["FEW", "READ_BYTES", "SharedMemory", "fits_one_step", "read", "reads_once", "reduce_all", "slices", "sweep", "write"]

_LINE_BYTES = 64  # of a cache line
_ALIGN = 64  # elements: slices begin at whole cache lines
_BLOCK_BYTES = 1 << 18  # reduced at a time, so that what is read stays in the cache until it is written
_BREATH_BYTES = 1 << 21  # of work before other operations have their turn
READ_BYTES = 1 << 22  # up to so much, of all ranks together, everybody reads everything at once
FEW = 4  # ranks: up to so many read everything of each other, whatever its size


class _Otherwise(Protocol):
    def allreduce(self, task: Task) -> Body: ...


class SharedMemory:
    """Each rank reduces its slice of the array over all ranks, and writes it into everybody's.

    For arrays in shared memory (`World.buffer`, and the reducer's buckets) each rank reads n elements and writes n elements, in place, and
    meets the others twice. Other arrays pass through the board's slots, meeting once a slot: by 2n(p-1)/p elements more that are copied;
    or, where ranks are few or arrays small, everybody reads all n p elements and reduces them in rank order. Nothing is encoded: codecs
    are accepted and lose nothing, and a residual is added whole. Where not all ranks share a node, or arrays are on a device, it goes
    `otherwise`.
    """

    name = "shared-memory"

    def __init__(self, otherwise: _Otherwise) -> None:
        self._otherwise = otherwise

    def allreduce(self, task: Task) -> Body:
        board = task.board
        if board is None or board.size < task.transport.size:
            yield from self._otherwise.allreduce(task)
            return
        turn = board.turns.take()
        if not turn.done():
            yield turn
        settle(task)
        yield from reduce_all(task, board)
        turn.passed = True


def reduce_all(task: Task, board: Board) -> Body:
    """The best way for the array's place and size. Under a turn."""
    if task.neighbours is None and reads_once(board, task.x.nbytes):
        yield from _read_everything(task, board)
    else:
        yield from sweep(task, board, slices(task.x.size, board.size, board.size), reduce=True, gather=True)


def reads_once(board: Board, nbytes: int) -> bool:
    """Whether everybody reads all of everybody's arrays of `nbytes`, which are the ranks' own: each is read once, and may be elsewhere."""
    return board.size <= FEW or fits_one_step(board, nbytes)


def slices(n: int, parts: int, ranks: int) -> list[int]:
    """Bounds of each rank's slice of `n` elements: `parts` ranks share them, the rest have none.

    >>> slices(100, 2, 3)
    [0, 64, 100, 100]
    """
    return [*split_blocks(n, parts, _ALIGN), *[n] * (ranks - parts)]


def settle(task: Task) -> None:
    """Add the residual, all of it: nothing will be lost here."""
    if task.residual is not None:
        task.x += task.residual
        task.residual[:] = 0


def sweep(task: Task, board: Board, bounds: list[int], reduce: bool, gather: bool) -> Body:
    """Over the ranks of this node: `reduce` everyone's arrays into each rank's own slice, `gather` everyone's slices into all arrays.

    With both, results are final: they are scaled in between.
    """
    if reduce and gather and task.scale is not None and not task.scale.done():
        yield task.scale
    yield from (_through_slots if task.neighbours is None else _in_place)(task, board, bounds, reduce, gather)


def _meet(task: Task, board: Board) -> Body:
    """Post, wait for the others, and see that all are in the same operation."""
    number, history = task.identity
    posted = board.post(number, history)
    if not posted.done():
        yield posted
    board.check(number, history)


def fits_one_step(board: Board, nbytes: int) -> bool:
    """Whether an array of `nbytes` is so small that everybody reads everything, all at once."""
    return nbytes <= board.slot_bytes and nbytes * board.size <= READ_BYTES


def write(board: Board, views: Sides, x: Array, number: int, history: int) -> Posted:
    """Begin a step in which everybody writes all of `x` into the slots that `views` are of."""
    views[board.side][0][...] = x
    return board.post(number, history)


def read(board: Board, views: Sides, x: Array, op: Op, number: int, history: int) -> None:
    """End it, once it is posted: reduce what everybody has written, in rank order."""
    board.check(number, history)
    combine, everybody = getattr(np, op.ufunc), views[board.side][1]
    combine(everybody[0], everybody[1], out=x)
    for other in everybody[2:]:
        combine(x, other, out=x)
    board.next()


def _read_everything(task: Task, board: Board) -> Body:
    """One step for each slotful: a slot is written while the others still read the one before."""
    length = board.slot_bytes // task.x.itemsize
    for begin, end in [*pieces(0, task.x.size, length)] or [(0, 0)]:  # a step for nothing too, as on the short way
        part = task.x[begin:end]
        views = board.views(part.dtype, part.shape)
        posted = write(board, views, part if task.given is None else task.given[begin:end], *task.identity)
        posted.pressing = end < task.x.size
        yield posted
        read(board, views, part, task.op, *task.identity)
        if task.scale is not None:
            if not task.scale.done():
                yield task.scale
            part *= part.dtype.type(task.scale.value)
        if end * task.x.itemsize % _BREATH_BYTES == 0:
            yield Breath()


def _in_place(task: Task, board: Board, bounds: list[int], reduce: bool, gather: bool) -> Body:
    """Arrays that all lie in shared memory: block by block, so that a block is still in the cache when its result is written."""
    x, others = task.x, [task.neighbours[peer] for peer in board.peers()] if task.neighbours else []
    scale = x.dtype.type(task.scale.value) if reduce and gather and task.scale is not None else None
    if reduce:
        yield from _meet(task, board)
        board.next()
    for number, (begin, end) in enumerate(pieces(bounds[board.rank], bounds[board.rank + 1], _BLOCK_BYTES // x.itemsize)):
        if (number + 1) % (_BREATH_BYTES // _BLOCK_BYTES) == 0:
            yield Breath()
        block = x[begin:end]
        if reduce:
            for other in others:
                task.op.combine(HOST, block, other[begin:end])
        if scale is not None:
            block *= scale
        if gather:
            for other in others:
                other[begin:end] = block
    if gather:
        yield from _meet(task, board)
        board.next()


def _through_slots(task: Task, board: Board, bounds: list[int], reduce: bool, gather: bool) -> Body:
    """Arrays of the ranks' own: piece by piece of all slices at once, results one step behind what they are made from."""
    x, me, others = task.x, board.rank, (board.size - 1) * reduce
    scale = x.dtype.type(task.scale.value) if reduce and gather and task.scale is not None else None
    length = board.slot_bytes // max(others + gather, 1) // _LINE_BYTES * _LINE_BYTES // x.itemsize
    lag = 1 if reduce and gather else 0
    rounds = -(-max(hi - lo for lo, hi in pairwise(bounds)) // length)

    def piece(owner: int, number: int) -> Array:
        """What `owner` reduces in round `number`, or has reduced in it."""
        lo, hi = bounds[owner], bounds[owner + 1]
        return x[min(hi, lo + number * length) : min(hi, lo + (number + 1) * length)] if number >= 0 else x[:0]

    def part(peer: int, index: int, n: int) -> Array:
        begin = index * length
        return board.slot(peer).view(x.dtype)[begin : begin + n]

    for number in range(rounds + lag):
        if reduce:
            for owner in board.peers():
                if (mine := piece(owner, number)).size:
                    part(me, owner - (owner > me), mine.size)[:] = mine
        if gather and (result := piece(me, number - lag)).size:
            part(me, others, result.size)[:] = result
        yield from _meet(task, board)
        if reduce and (target := piece(me, number)).size:
            for peer in board.peers():
                task.op.combine(HOST, target, part(peer, me - (me > peer), target.size))
            if scale is not None:
                target *= scale
        if gather:
            for peer in board.peers():
                if (target := piece(peer, number - lag)).size:
                    target[:] = part(peer, others, target.size)
        board.next()


class Breath:
    """Nothing to wait for: lets other operations, and the user's thread, have their turn in the middle of long work."""

    source = -1
    nbytes = 0

    def __init__(self) -> None:
        self._taken = False

    def done(self) -> bool:
        taken, self._taken = self._taken, True
        return taken

    def cancel(self) -> None:
        """Nothing to give up."""

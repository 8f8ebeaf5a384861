"""All-reduce in two levels: within each node, then between nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Protocol

from ..transport.subset import Subset
from .execute import Body
from .shared_memory import slices, sweep
from .task import Task

__all__ = ["TwoLevel", "same_place"]


class _Level(Protocol):
    def allreduce(self, task: Task) -> Body: ...


class TwoLevel:
    """Reduce-scatter inside the node, `outer` over the nodes for each local rank's slice, gather inside the node.

    All local ranks use the network at once; 2n(q-1)/q bytes leave each of q nodes, shared by its ranks. On nodes of unequal size the first
    ranks of each, as many as the smallest node has, take a slice. A codec works between nodes only. `inner` alone where all ranks share a
    node; `outer` alone where nobody shares one, or arrays are on a device.
    """

    name = "two-level"

    def __init__(self, inner: _Level, outer: _Level) -> None:
        self._inner, self._outer = inner, outer

    def allreduce(self, task: Task) -> Body:
        board, nodes = task.board, task.transport.nodes
        if board is None or board.size == task.transport.size:
            yield from (self._inner if board is not None else self._outer).allreduce(task)
            return
        fewest = min(Counter(nodes).values())
        turn = board.turns.take()
        if not turn.done():
            yield turn
        bounds = slices(task.x.size, fewest, board.size)
        yield from sweep(task, board, bounds, reduce=True, gather=False)
        mine = slice(bounds[board.rank], bounds[board.rank + 1])
        if board.rank < fewest:
            residual = None if task.residual is None else task.residual[mine]
            across = Subset(task.transport, same_place(nodes, board.rank))
            yield from self._outer.allreduce(replace(task, x=task.x[mine], residual=residual, transport=across, met=set()))
        yield from sweep(task, board, bounds, reduce=False, gather=True)
        turn.passed = True


def same_place(nodes: tuple[int, ...], local_rank: int) -> tuple[int, ...]:
    """The rank of each node that has the number `local_rank` there."""
    seen: Counter[int] = Counter()
    found = []
    for rank, node in enumerate(nodes):
        if seen[node] == local_rank:
            found.append(rank)
        seen[node] += 1
    return tuple(found)

"""Chunks that travel as they are: sent from and received into the array itself, without a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..arrays import Array, of
from .layout import EXACT_PIECE_BYTES, pieces
from .task import Task

__all__ = ["ExactChunks", "nothing"]


class ExactChunks:
    """How the executor reads and writes `task.x` where the wire is the memory."""

    def __init__(self, task: Task, bounds: list[int]) -> None:
        self._task, self._bounds = task, bounds
        self._library = of(task.x)
        self._length = max(1, EXACT_PIECE_BYTES // task.x.itemsize)
        self._final: set[int] = set()

    def outgoing(self, lo: int, hi: int, final: bool, borrow: Callable[[int], Array]) -> Iterator[Array]:
        """The wires of chunks [lo, hi), in order; each is made when it is asked for."""
        del borrow
        if final:
            self._settle(lo, hi)
        for begin, end in pieces(self._bounds[lo], self._bounds[hi], self._length):
            yield self._task.x[begin:end]

    def incoming(self, lo: int, hi: int, reduce: bool, borrow: Callable[[int], Array]) -> Iterator[tuple[Array, Callable[[], None]]]:
        """Where to receive the wires of chunks [lo, hi), and what to do with each when it is there."""
        task = self._task
        if not reduce:
            self._final.update(range(lo, hi))
        for begin, end in pieces(self._bounds[lo], self._bounds[hi], self._length):
            target = task.x[begin:end]
            if not reduce:
                yield target, nothing
                continue
            wire = borrow(target.nbytes)
            yield wire, lambda target=target, wire=wire: task.op.combine(self._library, target, wire.view(target.dtype))  # type: ignore[misc]

    def _settle(self, lo: int, hi: int) -> None:
        scale = self._task.scale
        for chunk in range(lo, hi):
            if chunk not in self._final:
                self._final.add(chunk)
                if scale is not None:
                    part = self._task.x[self._bounds[chunk] : self._bounds[chunk + 1]]
                    self._library.xp.multiply(part, part.dtype.type(scale.value), out=part)


def nothing() -> None:
    """What is left to do with bytes that were received where they belong."""

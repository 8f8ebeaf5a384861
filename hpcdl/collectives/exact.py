"""Chunks that travel as they are: sent from and received into the array itself, without a copy."""

from __future__ import annotations

from collections.abc import Iterator

from ..arrays import Array, of
from .layout import pieces
from .pool import Scratch
from .task import Task

__all__ = ["ExactChunks"]


class ExactChunks:
    """How the executor reads and writes `task.x` where the wire is the memory. A final value is scaled when it first goes out."""

    lends = True

    def __init__(self, task: Task, bounds: list[int]) -> None:
        self._task, self._bounds = task, bounds
        self._library = of(task.x)
        self._length = task.piece
        self._scratch = Scratch(task.pool)
        self._scaled: list[int] | None = None if task.scale is None else bounds[:-1]  # of each chunk: up to which element

    def pieces(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """Chunks [lo, hi) lie side by side, and travel as one."""
        return pieces(self._bounds[lo], self._bounds[hi], self._length)

    def expect(self, lo: int, hi: int) -> None:
        """Chunks [lo, hi) will come scaled."""
        if self._scaled is not None:
            self._scaled[lo:hi] = self._bounds[lo + 1 : hi + 1]

    def wire(self, piece: tuple[int, int], final: bool) -> Array:
        """The piece itself."""
        begin, end = piece
        if final and self._scaled is not None:
            self._scale(begin, end)
        return self._task.x[begin:end]

    def sent(self, wire: Array, final: bool) -> None:
        """Nothing to give back."""

    def landing(self, piece: tuple[int, int], reduce: bool) -> Array:
        """Scratch memory for what is to be added, else the piece itself."""
        begin, end = piece
        return self._scratch.take((end - begin) * self._task.x.itemsize) if reduce else self._task.x[begin:end]

    def use(self, piece: tuple[int, int], wire: Array, reduce: bool) -> None:
        """Add what has come."""
        if reduce:
            target = self._task.x[piece[0] : piece[1]]
            self._task.op.combine(self._library, target, wire.view(target.dtype))
            self._scratch.give(wire)

    def release(self) -> None:
        """Give the scratch memory back, once nothing is under way."""
        self._scratch.release()

    def _scale(self, begin: int, end: int) -> None:
        assert self._scaled is not None and self._task.scale is not None
        bounds, scaled = self._bounds, self._scaled
        for chunk in range(len(scaled)):
            lo, hi = max(begin, scaled[chunk]), min(end, bounds[chunk + 1])
            if lo < hi:
                part = self._task.x[lo:hi]
                self._library.xp.multiply(part, part.dtype.type(self._task.scale.value), out=part)
                scaled[chunk] = hi

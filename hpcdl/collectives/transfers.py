"""Sends and receives of a schedule, piece by piece, and what each piece needs before it may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from ..arrays import Array
from ..transport.base import Pending

__all__ = ["Chunks", "Piece", "Transfer", "Whole"]

Piece = tuple[int, int]  # elements [begin, end)


class Chunks(Protocol):
    """How the data of a task is read and written, piece by piece."""

    lends: bool  # whether what is sent, and what replaces, is the user's memory itself

    def pieces(self, lo: int, hi: int) -> Iterator[Piece]:
        """The pieces of chunks [lo, hi), in order."""
        ...

    def wire(self, piece: Piece, final: bool) -> Array:
        """The bytes to send."""
        ...

    def sent(self, wire: Array, final: bool) -> None:
        """A wire is not needed any more."""
        ...

    def landing(self, piece: Piece, reduce: bool) -> Array:
        """Where to receive the bytes of a piece."""
        ...

    def use(self, piece: Piece, wire: Array, reduce: bool) -> None:
        """Add a received wire to what is there, or replace it."""
        ...


class Whole(Chunks, Protocol):
    """The same for all chunks of a schedule."""

    def expect(self, lo: int, hi: int) -> None:
        """Chunks [lo, hi) will come scaled."""
        ...

    def release(self) -> None:
        """Give scratch memory back, once nothing is under way."""
        ...


class Transfer:
    """One send or receive of a schedule, as far as it has come.

    `upto`: the elements before it may be read and written by whoever `needs` this one. `flag`: final, for a send; reduce, for a receive.
    """

    __slots__ = ("_pieces", "begin", "end", "finished", "flag", "needs", "piece", "upto", "wait")

    def __init__(
        self, pieces: Iterable[Piece], begin: int, end: int, flag: bool, needs: Iterable[Transfer] = (), wait: Pending | None = None
    ) -> None:
        self.begin, self.end, self.flag = begin, end, flag
        self.upto, self.finished = begin, False
        self.needs = list(needs)
        self.wait = wait  # must be done before the first piece goes
        self._pieces = iter(pieces)
        self.piece: Piece | None = next(self._pieces, None)  # the next one; None: no more

    def ready(self, upto: int) -> bool:
        """Whether all that the elements before `upto` need has happened."""
        if self.wait is not None:
            if not self.wait.done():
                return False
            self.wait = None
        needs = self.needs
        while needs and needs[-1].finished:
            needs.pop()
        return all(need.finished or (need.begin < need.end and need.upto >= min(upto, need.end)) for need in needs)

    def advance(self) -> None:
        """Go on to the next piece."""
        self.piece = next(self._pieces, None)

    @property
    def next_upto(self) -> int:
        """The end of the next piece."""
        return self.end if self.piece is None else self.piece[1]

    def reach(self, upto: int) -> None:
        """Elements before `upto` are through."""
        self.upto = upto
        if upto >= self.end:
            self.finished = True
            self.needs.clear()

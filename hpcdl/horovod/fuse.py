"""Small arrays that are reduced together travel as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arrays import Array, of
from ..collectives.group import Group
from ..collectives.operation import Operation
from .reduce import reduce_in_place
from .wanted import Wanted

__all__ = ["reduce_together"]

_SMALL = 1 << 17  # bytes; copying a larger array costs more than an operation of its own


def reduce_together(group: Group, arrays: Sequence[Array], wanted: Wanted) -> list[tuple[Operation, Callable[[], None]]]:
    """Start to reduce `arrays` in place; the operations, each with what is left to do at its end. The same on all ranks.

    Why not those of Adasum: it weighs each array by its own length.
    """
    by_kind: dict[Any, list[Array]] = {}
    alone: list[Array] = []
    for x in arrays:
        if wanted.op == "adasum" or x.nbytes > _SMALL:
            alone.append(x)
        else:
            by_kind.setdefault(x.dtype, []).append(x)
    started = []
    for small in by_kind.values():
        if len(small) == 1:
            alone += small
        else:
            flat = of(small[0]).xp.concatenate([x.reshape(-1) for x in small])
            operation, end = reduce_in_place(group, flat, wanted)
            started.append((operation, _dealt(flat, small, end)))
    return started + [reduce_in_place(group, x, wanted) for x in alone]


def _dealt(flat: Any, small: Sequence[Array], end: Callable[[], None]) -> Callable[[], None]:
    """What ends the reduction of `flat` and copies its parts to where they belong."""

    def deal() -> None:
        end()
        begin = 0
        for x in small:
            x[...] = flat[begin : begin + x.size].reshape(x.shape)
            begin += x.size

    return deal

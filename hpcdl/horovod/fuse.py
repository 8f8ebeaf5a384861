"""Small arrays that are reduced together travel as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

from ..arrays import Array, of
from ..collectives.group import Group
from ..collectives.operation import Operation
from .feedback import Dropped, reduce_carrying
from .reduce import reduce_in_place
from .wanted import Wanted

__all__ = ["reduce_together"]

_SMALL = 1 << 17  # bytes; copying a larger array costs more than an operation of its own


def reduce_together(
    group: Group,
    arrays: Sequence[Array],
    wanted: Wanted,
    given: Sequence[Array] | None = None,
    dropped: Sequence[Dropped] | None = None,
) -> list[tuple[Operation, Callable[[], None]]]:
    """Start to reduce `arrays` in place; the operations, each with what is left to do at its end. The same on all ranks.

    given: arrays like these whose values are reduced in place of theirs. dropped: see `reduce_carrying`, which does it with error feedback.
    Why not those of Adasum: it weighs each array by its own length.
    """
    if wanted.feedback:
        return reduce_carrying(group, arrays, wanted, dropped)
    by_kind: dict[Any, list[tuple[Array, Array | None]]] = {}
    alone: list[tuple[Array, Array | None]] = []
    for pair in zip(arrays, given or repeat(None), strict=False):
        if wanted.op == "adasum" or pair[0].nbytes > _SMALL:
            alone.append(pair)
        else:
            by_kind.setdefault(pair[0].dtype, []).append(pair)
    started = []
    for small in by_kind.values():
        if len(small) == 1:
            alone += small
        else:
            flat = of(small[0][0]).xp.concatenate([(x if other is None else other).reshape(-1) for x, other in small])
            operation, end = reduce_in_place(group, flat, wanted)
            started.append((operation, _dealt(flat, [x for x, _ in small], end)))
    return started + [reduce_in_place(group, x, wanted, other) for x, other in alone]


def _dealt(flat: Any, small: Sequence[Array], end: Callable[[], None]) -> Callable[[], None]:
    """What ends the reduction of `flat` and copies its parts to where they belong."""

    def deal() -> None:
        end()
        begin = 0
        for x in small:
            x[...] = flat[begin : begin + x.size].reshape(x.shape)
            begin += x.size

    return deal

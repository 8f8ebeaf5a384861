"""Collectives that move bytes between arrays which the caller gives: lists of them, of any lengths, wherever they lie.

All arrays here are flat, of bytes. `about` is what the ranks must agree on besides, and what an error calls the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ..arrays import Array, of
from ..codecs import by_name as codec_by_name
from ..errors import InvalidArgument
from ..transport.base import Truncated
from . import ring
from .execute import Body, exchange, execute
from .follow import follow
from .group import Group
from .layout import pieces
from .operation import Operation, Signature
from .ops import by_name as op_by_name
from .task import Task
from .transfers import Piece

__all__ = ["About", "all_gather_into", "all_to_all_into", "gather_into", "moving", "scatter_from"]

#: The dtype and shape of what is moved.
About = tuple[Any, tuple[int | None, ...]]


def all_gather_into(group: Group, mine: Array, parts: Sequence[Array], about: About = ("", ())) -> Operation:
    """parts[r] = rank r's `mine`, for every r. `parts` may differ in length; `mine` may be parts[rank] itself.

    A ring: p-1 steps, each rank sends all but one of the parts.
    """
    rank = group.transport.rank
    check_parts(group, parts)
    lengths = [part.nbytes for part in parts]
    if mine.nbytes != lengths[rank]:
        raise InvalidArgument(f"{group.place}: this rank gives {mine.nbytes} bytes, and has room for {lengths[rank]} of its own")
    extra = "" if len(set(lengths)) == 1 else f"parts of {lengths} bytes"
    signature = Signature("all_gather", dtype=about[0], shape=about[1] if not extra else (None,), extra=extra)

    def call(tag: int, header: Any) -> Body:
        parts[rank][...] = mine
        bounds = [0, *accumulate(lengths)]
        task = moving(group, mine, tag, header, bounds)
        yield from execute(ring.ALL_GATHER, task, Parts(task, parts))

    return group.start(signature, follow(of(mine), call))


def gather_into(group: Group, mine: Array, parts: Sequence[Array] | None, root: int, about: About = ("", ())) -> Operation:
    """On rank `root`, parts[r] = rank r's `mine`; all of one length. Everybody else sends one message and gives None for `parts`."""
    rank, size = group.transport.rank, group.transport.size
    check_root(group, root)
    if rank == root:
        check_parts(group, parts, mine.nbytes)

    def call(tag: int, header: Any) -> Body:
        if parts is None:
            yield from exchange(moving(group, mine, tag, header), {root: mine}, {})
        else:
            parts[rank][...] = mine
            yield from exchange(moving(group, mine, tag, header), {}, {peer: parts[peer] for peer in range(size) if peer != rank})

    return group.start(Signature("gather", dtype=about[0], shape=about[1], extra=f"root {root}"), follow(of(mine), call))


def scatter_from(group: Group, out: Array, parts: Sequence[Array] | None, root: int, about: About = ("", ())) -> Operation:
    """`out` = rank `root`'s parts[rank]; all of one length. Everybody but the root gives None for `parts` and gets one message."""
    rank, size = group.transport.rank, group.transport.size
    check_root(group, root)
    if rank == root:
        check_parts(group, parts, out.nbytes)

    def call(tag: int, header: Any) -> Body:
        if parts is None:
            yield from exchange(moving(group, out, tag, header), {}, {root: out})
        else:
            out[...] = parts[rank]
            yield from exchange(moving(group, out, tag, header), {peer: parts[peer] for peer in range(size) if peer != rank}, {})

    return group.start(Signature("scatter", dtype=about[0], shape=about[1], extra=f"root {root}"), follow(of(out), call))


def all_to_all_into(group: Group, parts: Sequence[Array], outs: Sequence[Array], about: About = ("", ()), even: bool = False) -> Operation:
    """outs[r] = rank r's parts[this rank], for every r. `even`: all lengths are the same, which `about` then says; else peers first tell
    each other how much they send, in 8 bytes.
    """
    rank, size = group.transport.rank, group.transport.size
    for given in (parts, outs):
        check_parts(group, given)
    if parts[rank].nbytes != outs[rank].nbytes:
        raise InvalidArgument(f"{group.place}: this rank sends itself {parts[rank].nbytes} bytes, and has room for {outs[rank].nbytes}")
    others = [peer for peer in range(size) if peer != rank]

    def call(tag: int, header: Any) -> Body:
        outs[rank][...] = parts[rank]
        task = moving(group, parts[rank], tag, header)
        if not even:
            lengths = np.array([part.nbytes for part in parts], np.int64).view("u1").reshape(size, 8)
            theirs = np.zeros((size, 8), np.uint8)
            first = moving(group, lengths.reshape(-1), tag, header)
            yield from exchange(first, {peer: lengths[peer] for peer in others}, {peer: theirs[peer] for peer in others})
            task.met = first.met
            for peer in others:
                sent = int(theirs[peer].view(np.int64)[0])
                if sent != outs[peer].nbytes:
                    raise Truncated(f"rank {peer} sends {sent} bytes where rank {rank} has room for {outs[peer].nbytes}")
        yield from exchange(task, {peer: parts[peer] for peer in others}, {peer: outs[peer] for peer in others})

    signature = Signature("all_to_all", dtype=about[0], shape=about[1] if even else (None,), extra="" if even else "any lengths")
    return group.start(signature, follow(of(parts[rank]), call))


def check_root(group: Group, root: int) -> None:
    """Raise InvalidArgument unless `root` is a rank of the group."""
    if not 0 <= root < group.transport.size:
        raise InvalidArgument(f"{group.place}: root must be 0 to {group.transport.size - 1}, got {root}")


def check_parts(group: Group, parts: Sequence[Array] | None, nbytes: int | None = None) -> None:
    """Raise InvalidArgument unless there is one part for each rank, each of `nbytes` where that is given."""
    size = group.transport.size
    if parts is None or len(parts) != size:
        raise InvalidArgument(f"{group.place}: one part for each of the {size} ranks is needed, got {0 if parts is None else len(parts)}")
    if nbytes is not None and any(part.nbytes != nbytes for part in parts):
        raise InvalidArgument(f"{group.place}: every part must have {nbytes} bytes, got {[part.nbytes for part in parts]}")


def moving(group: Group, x: Array, tag: int, header: Any, bounds: list[int] | None = None, root: int = 0) -> Task:
    """A task that reduces nothing, on bytes where `x` lies."""
    library = of(x)
    return Task(
        x, op_by_name("bit_or"), codec_by_name(None), group.carrier(library), group.pool(library), tag, header, root=root, bounds=bounds
    )


class Parts:
    """Chunks that don't lie side by side: chunk c is parts[c]."""

    lends = True

    def __init__(self, task: Task, parts: Sequence[Array]) -> None:
        assert task.bounds is not None
        self._parts, self._bounds, self._length = parts, task.bounds, task.piece
        self._owner: dict[int, int] = {}  # of the piece that begins there

    def pieces(self, lo: int, hi: int) -> Iterator[Piece]:
        """Never across two chunks."""
        for chunk in range(lo, hi):
            for begin, end in pieces(self._bounds[chunk], self._bounds[chunk + 1], self._length):
                self._owner[begin] = chunk
                yield begin, end

    def expect(self, lo: int, hi: int) -> None:
        """Nothing is scaled."""

    def wire(self, piece: Piece, final: bool) -> Array:
        """The piece itself."""
        chunk = self._owner[piece[0]]
        begin = self._bounds[chunk]
        return self._parts[chunk][piece[0] - begin : piece[1] - begin]

    def sent(self, wire: Array, final: bool) -> None:
        """Nothing to give back."""

    def landing(self, piece: Piece, reduce: bool) -> Array:
        """The piece itself: nothing is reduced."""
        return self.wire(piece, False)

    def use(self, piece: Piece, wire: Array, reduce: bool) -> None:
        """It lies where it belongs."""

    def release(self) -> None:
        """No scratch memory was taken."""

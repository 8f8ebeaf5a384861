"""NCCL's collectives on arrays of devices that belong to one rank each, behind a check that all ranks are in the same operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ..arrays import HOST, Array, Event, nccl, of
from ..codecs import BLOCK
from ..errors import InvalidArgument
from ..transport.subset import Subset
from . import ring
from .execute import Body, execute
from .links import Links
from .shared_memory import settle
from .task import Task
from .two_level import same_place

__all__ = ["REACHES", "Nccl"]

REACHES = ("everywhere", "node")


class Nccl:
    """All ranks at once, or, with ``nccl:reach=node``, inside each node, and rings of messages between the nodes.

    Everywhere: what NCCL makes of n elements; nothing is encoded, codecs are accepted and lose nothing, and a residual is added whole. By
    node, and with a lossy codec where there are several nodes: reduce-scatter in the node, a ring over the nodes for each local rank's
    slice, which alone is encoded, all-gather in the node. That takes nodes of as many ranks each, and its operations go one after another.

    Several ranks on one device, no NCCL, an operation or a dtype that it does otherwise than NumPy (max and min of floats, bools, 16-bit
    integers): as `auto` goes without it. 2 lg p small messages come first; see `Links`.

    Why a codec works between nodes only: inside one, to encode takes longer than the links of its GPUs take for the bytes it would save.
    """

    name = "nccl"

    def __init__(self, otherwise: Callable[[str], Callable[[Task], Body]], reach: str = REACHES[0]) -> None:
        if reach not in REACHES:
            raise InvalidArgument(f"nccl: unknown reach {reach!r}; known: {', '.join(REACHES)}")
        self._otherwise, self._reach = otherwise, reach

    def allreduce(self, task: Task) -> Body:
        links = task.links
        if links is None or of(task.x) is HOST or not nccl.takes(task.op.ufunc, task.x.dtype):
            yield from self._otherwise(task.instead)(task)
            return
        try:
            yield from links.agree(task)
            here, wide = self._scope(task)
            made = (yield from links.communicator(task, "node" if wide else "all", here)) if here else None
            if made is None:
                links.pass_on()
            elif wide:
                yield from _two_levels(task, links, made, here)
            else:
                yield from _at_once(task, links, made)
        except BaseException:  # no other rank waits for this one in a kernel that never ends, nor this one for them
            links.abort()
            raise
        if made is None:
            yield from self._otherwise(task.instead)(task)

    def _scope(self, task: Task) -> tuple[list[int], bool]:
        """The ranks of this one's communicator, and whether there are more of them; no ranks where NCCL has nothing to do."""
        nodes, rank = task.transport.nodes, task.transport.rank
        if len(set(nodes)) == 1 or (task.codec.exact and self._reach == REACHES[0]):
            return list(range(task.transport.size)), False
        here = [other for other, node in enumerate(nodes) if node == nodes[rank]]
        even = len(set(Counter(nodes).values())) == 1
        return (here if even and len(here) > 1 else []), True


def _at_once(task: Task, links: Links, made: nccl.Communicator) -> Body:
    settle(task)
    if task.x.size:
        made.allreduce(task.x, task.op.ufunc)
    links.pass_on()
    yield from _end(made, task.x)
    if task.scale is not None:
        if not task.scale.done():
            yield task.scale
        task.x *= task.x.dtype.type(task.scale.value)


def _two_levels(task: Task, links: Links, made: nccl.Communicator, here: list[int]) -> Body:
    """Under the turn until the last call is queued, since all ranks make NCCL's calls in the same order."""
    x, count, index = task.x, len(here), here.index(task.transport.rank)
    part = -(-x.size // (count * BLOCK)) * BLOCK
    work = x
    if part * count != x.size:
        work = task.pool.take(part * count * x.itemsize).view(x.dtype)
        work[: x.size] = x
        work[x.size :] = 0
    if x.size:
        made.reduce_scatter(work, task.op.ufunc, index, count)
    begin, end = min(index * part, x.size), min((index + 1) * part, x.size)
    residual = None if task.residual is None else task.residual[begin:end]
    across = Subset(task.transport, same_place(task.transport.nodes, index))
    yield from execute(ring.ALL_REDUCE, replace(task, x=work[begin:end], residual=residual, transport=across, met=set()))
    if x.size:
        made.all_gather(work, index, count)
    links.pass_on()
    yield from _end(made, x)
    if work is not x:
        x[...] = work[: x.size]
        task.pool.give(work.view("u1"))


def _end(made: nccl.Communicator, x: Array) -> Body:
    watch = _Watch(made, of(x).event())
    if not watch.done():
        yield watch


class _Watch:
    """That the device has come to the end of what NCCL was told. Why not to leave it at that: if a rank dies, it never does."""

    source = -1
    nbytes = 0

    def __init__(self, made: nccl.Communicator, event: Event) -> None:
        self._made, self._event = made, event

    def done(self) -> bool:
        self._made.check()
        return self._event.done()

    def cancel(self) -> None:
        """Done by whoever ends the communicator."""

"""This process's place among the ranks, and the door to every collective."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import numpy as np

from .arrays import Array, device_name
from .collectives import calls, moves, quick
from .collectives.checks import check_out, check_timeout
from .collectives.costs import Costs, Layout
from .collectives.group import Group
from .collectives.operation import Operation
from .collectives.plan import Plan
from .collectives.progress import Engine
from .collectives.settle import settle
from .collectives.subgroup import subgroup
from .collectives.worth import Worth, worth
from .errors import CommunicationError, InvalidArgument
from .transport.base import NamedSums, Placement, Transport
from .transport.metered import Metered
from .transport.threads import ThreadHub

__all__ = ["World"]

_LANE_TAG = 1
_GRACE = 2.0  # seconds that a dying rank waits for the others to hear of it


class World:
    """Ranks that communicate. Made by `init`, `split` and `group`; every method is collective unless it says otherwise.

    rank, size: this process's number, and how many there are. local_rank, local_size: the same among the ranks of its node. node, nodes:
    the same for nodes. device: ``cpu``, or ``cuda:N`` for the GPU that belongs to this local rank. ranks: these ranks in the world.

    All ranks must call the same operations in the same order with arrays of the same shape and dtype; where they don't, every rank gets
    the same Mismatch. A rank that never comes ends in Stalled after `timeout` seconds, one that dies in PeerLost.
    """

    def __init__(self, transport: Transport, timeout: float | None = None) -> None:
        metered = Metered(transport)
        lane = transport.group(tuple(range(transport.size)), _LANE_TAG)
        engine = Engine(transport.threaded and transport.size > 1, f"rank {transport.rank}")
        self._settle_in(Group(engine, metered, lane, "the world", check_timeout(timeout)), owns_engine=True)

    @classmethod
    def _within(cls, group: Group) -> World:
        """The world of a group of another world, which goes on to own the progress loop."""
        world = cls.__new__(cls)
        world._settle_in(group, owns_engine=False)
        return world

    def _settle_in(self, group: Group, owns_engine: bool) -> None:
        self._group, self._owns_engine = group, owns_engine
        self.rank, self.size, self.ranks = group.transport.rank, group.transport.size, group.transport.ranks
        self.local_rank, self.local_size, self.node, self.nodes = Placement.of(self.rank, group.transport.nodes)
        self.device = device_name(self.local_rank)
        self._names = count()

    @classmethod
    def solo(cls) -> World:
        """A world of one rank, without MPI: what one process would do by itself."""
        return cls(ThreadHub(1).transport(0))

    def __repr__(self) -> str:
        return f"<World rank {self.rank} of {self.size}, node {self.node} of {self.nodes}, {self.device}>"

    @property
    def bytes_sent(self) -> int:
        """Payload bytes that this rank has sent so far, in all operations of all its groups; the MPI library's own calls not counted."""
        transport = self._group.transport
        return transport.traffic.bytes_sent if isinstance(transport, Metered) else 0

    @property
    def progress_cpu_seconds(self) -> float:
        """CPU seconds that this rank has spent on communication so far: its background thread, and threads that waited."""
        return self._group.engine.cpu_seconds

    def allreduce(
        self,
        x: Array,
        op: str = "sum",
        codec: Any = None,
        collective: str = "auto",
        out: Array | None = None,
        weight: float | None = None,
        error_feedback: Array | None = None,
        name: str = "",
    ) -> Array:
        """Reduce `x` over all ranks, in place, and return it; with `out`, `x` stays as it was and `out` is returned.

        op: sum, mean, product, max, min, bit_and, bit_or, bit_xor, logical_and, logical_or, logical_xor. codec: none, fp16, bf16, int8, …
        (see `hpcdl.codecs`). collective: auto, shared-memory, two-level, ring, halving-doubling, tree, direct, native, nccl. weight: makes
        the mean sum(w x) / sum(w); given on all ranks or on none; 0 takes a rank out, and a mean of nothing is 0. error_feedback: a float32
        array (float64 for float64) of x's shape, zero at first, that carries what the codec lost to the next call. The result is bitwise
        equal on all ranks.
        """
        if out is None and weight is None and error_feedback is None and quick.allreduce(self._group, x, op, codec, collective, name):
            return x
        with self._group.engine:
            return self.allreduce_async(x, op, codec, collective, out, weight, error_feedback, name).wait()

    def allreduce_async(
        self,
        x: Array,
        op: str = "sum",
        codec: Any = None,
        collective: str = "auto",
        out: Array | None = None,
        weight: float | None = None,
        error_feedback: Array | None = None,
        name: str = "",
    ) -> Operation:
        """`allreduce` without waiting: a handle with wait(timeout=…) and done(). Handles may be waited for in any order.

        The arrays must stay untouched until then. On a device it works in the call's stream, and wait() puts the stream of its call behind.
        """
        if out is not None:
            check_out(self._group, x, out)
            out[...] = x
            x = out
        return calls.allreduce(self._group, x, op, codec, collective, weight, residual=error_feedback, name=name)

    def buffer(self, shape: Any, dtype: Any = "float32") -> Array:
        """A new array of zeros that an all-reduce (shared-memory, two-level, auto) can read where it lies: the fastest there is.

        It lies in memory that the ranks of a node share; each rank's array is its own all the same. All ranks ask for the same shape and
        dtype; raises InvalidArgument for what cannot be. It remains until nobody holds it any more and the world is closed. Where nodes
        have no shared memory, a plain array.
        """
        return moves.buffer(self._group, shape, dtype)

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Overwrite `x` with rank `root`'s, and return it.

        The root need not wait for the others: where they disagree, it may hear of it in its next operation, or at its end.
        """
        with self._group.engine:
            return self.broadcast_async(x, root).wait()

    def broadcast_async(self, x: Array, root: int = 0) -> Operation:
        """`broadcast` without waiting: a handle as from `allreduce_async`."""
        return moves.broadcast(self._group, x, root)

    def allgather(self, x: Array) -> Array:
        """A new array: every rank's `x` along axis 0, in rank order. First dimensions may differ between ranks."""
        with self._group.engine:
            return moves.all_gather(self._group, x).wait()

    def reduce_scatter(self, x: Array, op: str = "sum", codec: Any = None) -> Array:
        """A new array: part `rank` of ``numpy.array_split(x, size)`` of the reduced `x`."""
        with self._group.engine:
            return calls.reduce_scatter(self._group, x, op, codec).wait()

    def alltoall(self, x: Array) -> Array:
        """A new array: part `rank` of every rank's ``numpy.array_split(x, size)``, along axis 0, in rank order."""
        with self._group.engine:
            return moves.all_to_all(self._group, x).wait()

    def barrier(self) -> None:
        """Return once every rank has come here."""
        with self._group.engine:
            moves.barrier(self._group).wait()

    def group(self, ranks: Any) -> World:
        """The world of `ranks` (of this world, in the order of their new numbers). Called by exactly those ranks."""
        members = tuple(int(rank) for rank in ranks)
        if len(set(members)) != len(members) or not all(0 <= rank < self.size for rank in members):
            raise InvalidArgument(f"{self._group.place}: ranks must be different and within 0 to {self.size - 1}, got {list(members)}")
        if self.rank not in members:
            raise InvalidArgument(f"{self._group.place}: only members may call group({list(members)})")
        world = World._within(subgroup(self._group, members, f"group {[self.ranks[rank] for rank in members]}"))
        world.device = self.device
        return world

    def split(self, color: int | None, key: int = 0) -> World | None:
        """The world of all ranks that give the same `color`, ordered by `key`, then by rank; None for color None. Called by all ranks."""
        mine = np.array([[color is not None, color or 0, key]], np.int64)
        everyone = self.allgather(mine)
        if color is None:
            return None
        members = sorted((int(k), rank) for rank, (there, c, k) in enumerate(everyone) if there and c == color)
        return self.group([rank for _, rank in members])

    def new_group(self, purpose: str, ranks: Iterable[int] | None = None, messages_only: bool = False, kind: type[Group] = Group) -> Group:
        """A group of the same ranks, in the order of `ranks`, with communicators of its own; see `subgroup`."""
        label = f"{purpose} {next(self._names)} of {self._group.label}"
        return subgroup(self._group, tuple(range(self.size) if ranks is None else ranks), label, messages_only, kind)

    def set_timeout(self, seconds: float) -> None:
        """Let operations stall after so many seconds without progress. The same on all ranks."""
        self._group.timeout = seconds

    def settle_costs(self, library: str = "") -> None:
        """Find out what communication costs here, and plan what `auto` does. `init` does it once; `bytes_sent` begins anew.

        library: the MPI library's version.
        """
        if self.size > 1:
            settle(self._group, self.new_group("calibration"), library)

    @property
    def engine(self) -> str:
        """Who reduces where `collective` is ``auto``: ``hpcdl``, or ``horovod``. Not collective."""
        return "hpcdl" if self._group.sums is None else "horovod"

    def reduce_by(self, sums: NamedSums | None) -> None:
        """Let another library reduce from now on; also for groups of all these ranks that are made later. On all ranks alike."""
        self._group.sums = sums
        self._group.recipes.clear()

    @property
    def plan(self) -> Plan:
        """What `auto` follows: which collective for which size; the same on all ranks. Not collective."""
        return self._group.plan

    @property
    def costs(self) -> Costs:
        """What the plan was made from, in seconds and seconds per byte. The same on all ranks. Not collective."""
        return self._group.costs

    def worth(self, codec: str) -> Worth | None:
        """Whether a lossy codec makes large all-reduces faster here, and the network speed below which it does; `str` of it is a sentence.

        None for a world of one, and where it was not measured. Raises UnknownName for what is no codec. Not collective.
        """
        return worth(codec, self.costs, self.plan, Layout(self._group.transport.nodes))

    def close(self, error: BaseException | None = None) -> None:
        """Leave: no more operations from this rank. Waits, cheaply, until all ranks have left; with an error 2 seconds at most.

        Not needed at the end of a program; there it happens by itself.
        """
        engine = self._group.engine
        groups = engine.groups() if self._owns_engine else [self._group]
        for group in groups:
            group.leave(error)
        self._group.wait_for_all_to_leave(None if error is None else _GRACE)
        if self._owns_engine:
            engine.close()
        for group in groups:
            group.close(memory=not self._owns_engine)

    @property
    def broken(self) -> CommunicationError | None:
        """The error that has made this world unusable, if one has."""
        return self._group.broken

"""What a compressor is, and the frame that all of them share: this rank's share in, the scaled sum of all shares out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..arrays import Array, Arrays, accumulator, of
from ..codecs import by_name as codec_by_name
from ..collectives import collective as collectives
from ..collectives.coded import forget_non_finite
from ..collectives.execute import Body
from ..collectives.follow import follow
from ..collectives.group import Group
from ..collectives.operation import Operation, Signature, all_finished
from ..collectives.ops import Op
from ..collectives.ops import by_name as op_by_name
from ..collectives.pool import Pool
from ..collectives.task import Scale, Task
from .bucket import Bucket

__all__ = ["Compressor", "How", "Share", "start"]


@dataclass(frozen=True)
class How:
    """How a bucket is reduced in this step; the same on all ranks but for `weight` and `scale`."""

    op: Op
    collective: str
    weight: float | None  # of this rank's gradient; 0: the bucket may hold anything
    scale: Scale | None  # factor of the sum over ranks
    step: int  # counts the reducer's steps
    number: int  # of the bucket
    after: tuple[Operation, ...] = ()  # takes no memory and sends nothing before these have finished
    begin: Callable[[], None] | None = None  # called when it begins

    @property
    def name(self) -> str:
        """For errors."""
        return f"bucket {self.number}"


class Compressor(Protocol):
    """A way to reduce a whole bucket with few bytes. Has no state: what must last lies in the bucket (`residual`, `kept`).

    What it leaves out of the sum goes into the residual, if there is one, and into the next step's share; NaN and infinity never do, and
    never become finite without a trace: the result holds one in the same parameter (with random-k: in the same group of elements).
    """

    @property
    def name(self) -> str:
        """As the registry knows it, with its parameters."""
        ...

    @property
    def exact(self) -> bool:
        """Whether nothing is lost."""
        ...

    @property
    def error_feedback(self) -> bool:
        """Whether to carry over what was lost, unless the user says otherwise."""
        ...

    def reduce(self, bucket: Bucket, group: Group, how: How) -> Operation:
        """Start to reduce `bucket.flat` in place, bitwise equal on all ranks."""
        ...


@dataclass
class Share:
    """What a compressor works on. It must set `target` to the sum over ranks of what each `source` gave, times `factor`, and, where there
    is a `residual` (which then is `source`), take off from it what it gave; all but that when the factor is 0, since nobody gave anything.
    """

    source: Array  # this rank's share: weight times gradient, plus residual; flat, float32 or float64. Not read after `target` is written
    target: Array
    residual: Array | None
    bucket: Bucket
    how: How
    library: Arrays
    pool: Pool
    group: Group
    tag: int
    header: Array
    met: set[tuple[str, int]] = field(default_factory=set)

    def parameters(self) -> Iterator[tuple[int, slice]]:
        """The bucket's parameters and their elements."""
        return ((i, self.bucket.layout.cut(i)) for i in self.bucket.layout.offsets)

    def factor(self) -> Body:
        """Gives the factor of the sum, once all ranks' weights are known."""
        scale = self.how.scale
        if scale is not None and not scale.done():
            yield scale
        return 1.0 if scale is None else scale.value

    def add_up(self, x: Array) -> Body:
        """All-reduce `x`, a sum without loss, by the schedule that the user has named, or one for its size.

        Why schedules only: MPI's own calls, and those through shared memory, must come in the same order on all ranks, and what two
        buckets in flight do in their middles does not.
        """
        name = self.how.collective
        if not isinstance(collectives.by_name(name) if name != "auto" else None, collectives.Scheduled):
            name = self.group.plan.choose(x.nbytes, host=False).collective  # a schedule
        yield from collectives.by_name(name).allreduce(self.task(x, op_by_name("sum")))

    def task(self, x: Array, op: Op, bounds: list[int] | None = None) -> Task:
        """A collective on `x`, inside this operation."""
        carrier = self.group.carrier(self.library)
        return Task(x, op, codec_by_name(None), carrier, self.pool, self.tag, self.header, bounds=bounds, met=self.met)


def start(name: str, bucket: Bucket, group: Group, how: How, compress: Callable[[Share], Body]) -> Operation:
    """Start an operation that reduces `bucket` by `compress`. In a world of one nothing is sent, so nothing is lost."""
    flat, residual = bucket.flat, bucket.residual
    work = accumulator(flat.dtype)
    extra = ", ".join(filter(None, ("weighted" if how.scale is not None else "", "error feedback" if residual is not None else "")))
    signature = Signature("allreduce", how.op.name, flat.dtype, flat.shape, name, how.collective, extra, how.name)

    def call(tag: int, header: Any) -> Body:
        yield from all_finished(how.after)
        if how.begin is not None:
            how.begin()
        library, pool = of(flat), group.pool(of(flat))
        target = flat
        if work != flat.dtype:
            target = pool.take(flat.size * work.itemsize).view(work)
            library.cast(flat, target)
        if how.weight == 0:
            target[:] = 0  # not a product: a rank without data may hold anything, NaN included
        elif how.weight not in (None, 1):
            library.xp.multiply(target, target.dtype.type(how.weight), out=target)
        if group.transport.size > 1:
            source = target if residual is None else library.xp.add(target, residual, out=residual)
            yield from compress(Share(source, target, residual, bucket, how, library, pool, group, tag, header))
            if residual is not None:
                forget_non_finite(library, residual)
        elif how.scale is not None:
            library.xp.multiply(target, target.dtype.type(how.scale.value), out=target)
        if target is not flat:
            library.cast(target, flat)
            pool.give(target.view("u1"))
        return flat

    return group.start(signature, follow(of(flat), call))

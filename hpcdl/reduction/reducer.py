"""The reducer: gradients in, their mean over all ranks out, with communication behind the rest of backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..arrays import HOST, Array, of
from ..codecs import Codec
from ..collectives import calls, moves
from ..collectives.collective import check_name
from ..collectives.ops import by_name as op_by_name
from ..errors import InvalidArgument
from .aside import beside, settle
from .bucket import Bucket, known
from .compressor import Compressor, How
from .compressors import by_name as compressor_by_name
from .compressors import check
from .elementwise import Elementwise
from .finite import Finite
from .memory import Memory, measure
from .room import allocate
from .state import kept_of, residuals_of, shared_out, take_kept, take_residuals
from .step import Step

if TYPE_CHECKING:
    from ..world import World

__all__ = ["Reducer"]

_BUCKET_BYTES = 4 << 20


class Reducer:
    """Means of gradients over all ranks, bucket by bucket. Made by all ranks, with the same arguments; several may work at once.

    One step: write each gradient (the mean over this rank's samples) into ``views[i]`` and call ``ready(i)``, in any order; ``wait()``
    ends it, and ``views[i]`` then holds the mean (or the sum, with op="sum"), bitwise equal on all ranks. A full bucket is reduced while
    the rest of backward goes on, in the same order on every rank whatever the order of ``ready``.

    The mean is weighted, sum(w g) / sum(w), with w the number of samples behind this rank's gradient. The weight must be known before the
    first bucket starts: ``begin(weight)`` announces it. Where the sum of all ranks' weights is known too, ``begin(weight, total)`` saves
    an exchange; where all ranks count alike, ``begin(None)`` does. ``wait(weight=…)`` announces it at the end, and then nothing can
    overlap: a reducer starts its first step's buckets in ``wait`` and goes on to start them early only if that ``wait`` had no weight.

    shapes: of the parameters. dtype: one for all, or one each. codec: a codec as for `World.allreduce`, or a compressor that works on
    whole buckets (see `hpcdl.reduction.compressors`). collective: as for `World.allreduce`. error_feedback: carry what was lost over to
    the next step (`residuals`); None: on with a compressor, off with a codec. bucket_bytes: size of a bucket. in_flight: how many buckets
    are under way at most; the next one starts, in index order, when one has finished. names: of the parameters, for errors. check_finite:
    raise NonFinite on every rank when a gradient holds NaN or infinity on any. like: an array whose library (NumPy, CuPy) the views shall
    have. Memory (`memory` tells): one array the size of all gradients, one more with error feedback, and the wires of `in_flight` buckets.

    On a device buckets are reduced in streams of their own, in order with the caller's by events: those that are current in `ready` come
    before, the one that is current in `wait` goes on behind. Nothing waits for the device, but for check_finite, once, in `wait`. Where a
    device has no room for the wires of such buckets, all ranks take smaller ones and warn; OutOfMemory if that does not help.
    """

    def __init__(
        self,
        world: World,
        shapes: Sequence[Sequence[int]],
        codec: Codec | Compressor | str | None = None,
        collective: str = "auto",
        bucket_bytes: int = _BUCKET_BYTES,
        error_feedback: bool | None = None,
        op: str = "mean",
        dtype: Any = "float32",
        names: Sequence[str] | None = None,
        check_finite: bool = False,
        like: Array | None = None,
        in_flight: int = 2,
    ) -> None:
        self.compressor, self.collective, self.op = compressor_by_name(codec), collective, op_by_name(op)
        check_name(collective)
        sizes, dtypes, self.names = known(shapes, dtype, names)
        for argument, value in {"bucket_bytes": bucket_bytes, "in_flight": in_flight}.items():
            if value <= 0:
                raise InvalidArgument(f"{argument} must be more than 0, got {value}")
        for d in dtypes:
            self.op.check(d)
            check(self.compressor, self.op, d, world.engine == "horovod" and collective in ("auto", "horovod"))
        error_feedback = (self.compressor.error_feedback if error_feedback is None else error_feedback) and not self.compressor.exact
        described = ", ".join(f"{name}: {d}{list(s)}" for name, d, s in zip(self.names, dtypes, sizes, strict=True))
        self._group = world.new_group("reducer")
        moves.barrier(
            self._group,
            f"{self.op.name}, codec {self.compressor.name}, {collective}, {bucket_bytes} B, feedback {error_feedback}; {described}",
        ).wait()

        library = HOST if like is None else of(like)
        self._aside = beside(library, in_flight)
        self._buckets = allocate(library, self._group, self._aside, self.compressor, (sizes, dtypes, bucket_bytes, error_feedback))
        plans = [bucket.layout for bucket in self._buckets]
        self._home = {index: number for number, plan in enumerate(plans) for index in plan.offsets}
        cuts = {i: plan.cut(i) for plan in plans for i in plan.offsets}
        self.views: tuple[Array, ...] = tuple(self._buckets[self._home[i]].flat[cuts[i]].reshape(sizes[i]) for i in range(len(sizes)))
        self.residuals: list[Array] | None = None
        if error_feedback:
            held = [bucket.residual for bucket in self._buckets]
            self.residuals = [held[self._home[i]][cuts[i]].reshape(sizes[i]) for i in range(len(sizes))]  # type: ignore[index]
        self._library = library
        self._in_flight, self._steps = in_flight, 0
        self._late_weights: bool | None = None  # whether wait() brings weights; None before the first wait
        self.seconds_waiting = 0.0
        self._step = Step(self._group.place, self.op)
        self._finite = Finite(library, self.views) if check_finite else None
        settle(library, self._group.engine)  # the zeros are there, whichever stream writes to the views first

    def begin(self, weight: float | None, total: float | None = None) -> None:
        """Announce this step's weight, before the first `ready`. 0: this rank has no data, and its views count for nothing.

        total: the sum of all ranks' weights, where it is known. None for the weight: all ranks count alike, and all of them say so.
        """
        if any(bucket.ready for bucket in self._buckets):
            raise InvalidArgument(f"{self._group.place}: begin() comes before the first ready() of a step")
        self._step.announce(weight, total)

    def ready(self, i: int) -> None:
        """The gradient in ``views[i]`` is complete; it must not be touched until `wait` has returned."""
        if not 0 <= i < len(self.views):
            raise InvalidArgument(f"{self._group.place}: ready({i}): there are parameters 0 to {len(self.views) - 1}")
        bucket = self._buckets[self._home[i]]
        if i in bucket.ready or self._step.flushed:
            why = "all were flushed already" if self._step.flushed else "it was ready already"
            raise InvalidArgument(f"{self._group.place}: {self.names[i]} became ready twice in a step ({why}); wait() ends a step")
        bucket.ready.add(i)
        self._aside.note(self._home[i])
        if self._step.announced or self._late_weights is False:
            self._start_full()

    def flush(self) -> None:
        """End of backward: gradients that are not ready count as zero, and all buckets start that have not."""
        if self._step.flushed:
            return
        self._step.flushed = True
        for number, bucket in enumerate(self._buckets):
            missing = bucket.members - bucket.ready
            for i in missing:
                self.views[i][...] = 0
            if missing:
                self._aside.note(number)
            bucket.ready |= bucket.members
        self._start_full()

    def wait(self, weight: float | None = None, last: Sequence[int] = ()) -> None:
        """Return when all views hold the result; includes the flush. `weight`: this step's, if `begin` has not announced it.

        last: views that are complete only now. As `ready`, for a caller who does nothing more in between, which makes their bucket cheaper.
        """
        begun = time.perf_counter()
        try:
            self._take_weight(weight)
            with self._group.engine:
                self._step.hurry = True
                for i in last:
                    self.ready(i)
                self.flush()
                for operation in filter(None, self._step.running):
                    operation.settle()
                if self._finite is not None:
                    with self._aside.after_all():
                        self._finite.check(self._group, self.names)
        finally:
            if self._step.flushed:
                self._aside.join()
                self._reset()
            self.seconds_waiting += time.perf_counter() - begun

    def state_dict(self) -> dict[str, Any]:
        """What compressors keep, and the count of steps: the same on all ranks. Between two steps; the arrays are the reducer's own."""
        return {"steps": self._steps, "kept": kept_of(self._buckets, self.names)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises DataError for the state of a reducer of other parameters."""
        take_kept(self._buckets, self.names, state["kept"], self._library)
        self._steps = int(state["steps"])

    def rank_state_dict(self) -> dict[str, Any]:
        """What codecs have dropped on this rank, by parameter: another on each rank. The arrays are the reducer's own."""
        return {"residuals": residuals_of(self.residuals, self.names)}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, on as many ranks. Raises DataError for the state of a reducer of other parameters."""
        take_residuals(self.residuals, self.names, state["residuals"], self._library)

    def load_all_rank_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what ranks of another number have dropped: their sum is shared out, so that all of it is sent yet."""
        self.load_rank_state_dict(shared_out(states, self._group.transport.size))

    @property
    def memory(self) -> Memory:
        """What this reducer holds and has held at most, in bytes; prints as a line each."""
        return measure(self._buckets, self._group, self._library)

    def close(self) -> None:
        """Give back communicators and memory. Called by all ranks; a program that makes few reducers need not.

        Views that the caller still holds stay valid.
        """
        self._group.leave()
        self._group.wait_for_all_to_leave()
        self._buckets, self.views, self.residuals = [], (), None
        self._group.close()

    def _take_weight(self, weight: float | None) -> None:
        step = self._step
        if weight is not None:
            step.take(weight)
        if not step.announced and step.weight and self.views and not step.flushed and not any(b.ready for b in self._buckets):
            cure = "call ready(i) for each gradient that you wrote, or wait(weight=0) on a rank without data"
            raise InvalidArgument(f"{self._group.place}: wait() before any gradient was ready; {cure}")
        if not step.announced:
            self._late_weights = weight is not None or bool(self._late_weights)

    def _start_full(self) -> None:
        """Start the buckets whose turn it is: index order, the same on every rank."""
        while len(self._step.running) < len(self._buckets) and self._buckets[len(self._step.running)].full():
            number = len(self._step.running)
            bucket = self._buckets[number]
            weighted = self.op.averages and not self._step.alike
            if weighted and self._step.scale is None:
                self._step.scale = calls.weight_sum(self._group, self._step.weight)
            weight = self._step.weight if weighted else None
            last = number - self._in_flight + 1  # those before have finished, and so all begin in index order: MPI's own calls need that
            after = tuple(filter(None, self._step.running[max(0, last - self._in_flight) : max(0, last)]))
            how = How(
                self.op,
                self.collective,
                weight,
                self._step.scale,
                self._steps,
                number,
                after,
                self._aside.begin(number, self._look_at(bucket)),
            )
            now = self._step.hurry and isinstance(self.compressor, Elementwise) and self.compressor.reduce_now(bucket, self._group, how)
            with self._aside.within(number):
                self._step.running.append(None if now else self.compressor.reduce(bucket, self._group, how))

    def _look_at(self, bucket: Bucket) -> Callable[[], None]:
        counts = self._step.weight != 0
        return lambda: None if self._finite is None else self._finite.note(bucket.members, counts)

    def _reset(self) -> None:
        self._step = Step(self._group.place, self.op)
        self._steps += 1
        for bucket in self._buckets:
            bucket.ready.clear()

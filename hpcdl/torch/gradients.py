"""The gradients of one model: told of by autograd, reduced by those that are trained at the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import InvalidArgument
from ..reduction.reducer import Reducer
from ..world import World
from . import samples
from .accumulated import Accumulated
from .passes import Passes
from .trained import Named, Trained

__all__ = ["Copies", "Gradients"]

_KEPT = 2  # sets of trained parameters whose buckets are kept: enough for those who freeze and unfreeze in turn


class Copies(NamedTuple):
    """How often a gradient had to be copied into its bucket, because autograd had made a new tensor, and how often it lay there already."""

    copied: int = 0
    bytes_copied: int = 0
    in_place: int = 0

    def plus(self, nbytes: int | None) -> Copies:
        """With one more, of which so many bytes were copied."""
        if nbytes is None:
            return self
        return Copies(self.copied + (nbytes > 0), self.bytes_copied + nbytes, self.in_place + (nbytes == 0))


class Gradients:
    """Reduces the gradients of `parameters` in every backward pass that `passes` tells of.

    Buckets are made at the end of the first pass, in the order in which rank 0's gradients came, so that from the second pass on they fill
    one after the other; and made anew when other parameters than before are trained, or in another dtype. Those of the set before are kept.

    sparse_names: parameters whose gradients are sparse; they are gathered. options: for `Trained`. at_end: starts what else all ranks do
    at the end of a pass; what it returns is called after the reduction.
    """

    def __init__(
        self,
        world: World,
        parameters: Iterable[Named],
        sparse_names: frozenset[str],
        options: dict[str, Any],
        at_end: Callable[[], Callable[[], None]],
    ) -> None:
        self._world, self._everyone, self._options, self._at_end = world, list(parameters), options, at_end
        self._sparse_names = sparse_names
        self.passes = Passes(self)
        self.copies = Copies()
        self._sets: dict[Any, Trained] = {}  # by what is trained; the last used comes last
        self._last: Trained | None = None  # that of the last pass
        self._now = Trained(world, {}, sparse_names, options)
        self._key: Any = None
        self._came: list[int] = []  # gradients that have come in this pass, in order
        self._begun = False  # whether gradients of this pass are being reduced
        self._samples = samples.Samples()  # behind this pass
        self._place = f"rank {world.rank} of {world.size}"
        self._to_take: Mapping[str, Any] = {}  # a state for the reducer that is to be made
        self._accumulated = Accumulated(dict(enumerate(self._everyone)), self._place, world.size)

    @property
    def reducer(self) -> Reducer | None:
        """That of the last pass."""
        return None if self._last is None else self._last.reducer

    def state(self) -> Mapping[str, Any]:
        """What the reducer carries from pass to pass on this rank."""
        return self._to_take if self.reducer is None else {**self.reducer.state_dict(), **self.reducer.rank_state_dict()}

    def take(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with this pass's reducer or the next's."""
        self._to_take = state
        if self._last is not None and self._last.reducer is not None and state:
            self._last.reducer.load_state_dict(state)
            self._last.reducer.load_rank_state_dict(state)
            self._to_take = {}

    def refresh(self) -> None:
        """Look which parameters are trained now. Before each forward and each pass; not collective."""
        key = tuple([p.dtype if p.requires_grad else None for _, p in self._everyone])
        if key == self._key:
            return
        self._key = key
        trained = {i: named for i, named in enumerate(self._everyone) if named[1].requires_grad}
        self.passes.follow(trained)
        self._now = self._sets.get(key) or Trained(self._world, trained, self._sparse_names, self._options)

    def enter(self, reduce: bool, late: bool) -> None:
        self._samples = samples.current(self._world)
        self._accumulated.enter(self._samples, reduce, late)

    def begin(self) -> None:
        self.refresh()
        left_out = self._accumulated.left_out(self._now)
        if left_out is not None:
            raise InvalidArgument(
                f"{self._place}: parameter {left_out!r} has gradients of passes within no_sync(), and was frozen before the pass that "
                "reduces them; cure: freeze it after that pass, or set its grad to None"
            )
        self._came.clear()
        self._begun = True
        self._now.begin(self._accumulated.weigh(self._samples))

    def ready(self, i: int) -> None:
        if i not in self._now:
            raise InvalidArgument(
                f"{self._place}: parameter {self._everyone[i][0]!r} was frozen between forward and backward, so its gradient is not "
                "reduced; cure: freeze it before the forward, or after the backward"
            )
        self._came.append(i)
        if self._now.overlap and not self._accumulated.set_aside:
            self._give(i)

    def kept(self, i: int) -> None:
        self._accumulated.add(i)

    def leave(self) -> None:
        self._accumulated.put_back()

    def end(self) -> None:
        now, self._begun = self._now, False
        if now.reducer is None:
            now.build(self._came)
            self._keep(now)
        if self._last is not None and self._last is not now:
            now.inherit(self._last)
        self._last = now
        self.take(self._to_take)
        for i in now.missing():
            self._give(i)
        now.told()
        after = self._at_end()
        now.finish()
        self._accumulated.clear()
        after()

    def abandon(self) -> None:
        self._accumulated.put_back()
        if self._begun and self._now.reducer is not None:
            self._now.reducer.wait()
        self._begun = False

    def close(self) -> None:
        """Give back communicators and memory. Called by all ranks. Gradients that the caller holds stay valid."""
        for trained in self._sets.values():
            if trained.reducer is not None:
                trained.reducer.close()
        self._sets, self._last, self._key = {}, None, None
        self.passes.forget()

    def _give(self, i: int) -> None:
        self.copies = self.copies.plus(self._now.give(i))

    def _keep(self, now: Trained) -> None:
        """Keep the new buckets, and give back the oldest where there are too many. Collective."""
        self._sets[self._key] = now
        for key in list(self._sets)[:-_KEPT]:
            old = self._sets.pop(key)
            now.inherit(old)
            if old.reducer is not None:
                old.reducer.close()
            if old is self._last:
                self._last = None

"""One set of gradients of one optimizer, reduced over all ranks: arrays in, their means out, on whatever thread the backend calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..agree import compare
from ..arrays import Array
from ..reduction.bucket import known, layout
from ..reduction.reducer import Reducer
from ..world import World

__all__ = ["Exchange"]


class Exchange:
    """A reducer, and the two calls into it that a graph can make: `put` the gradients of one bucket, `collect` the means of all.

    Made by all ranks. buckets: the numbers of the gradients in each bucket, in the order in which they are reduced.
    Raises Mismatch, the same on every rank, where the ranks' gradients differ in number, shape or dtype.
    """

    def __init__(
        self, world: World, names: Sequence[str], shapes: Sequence[Any], dtypes: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        lines = [f"{name}: {dtype}{list(shape)}" for name, shape, dtype in zip(names, shapes, dtypes, strict=True)]
        compare(world, lines, "the gradients that the optimizer is given")
        self.world = world
        self.reducer = Reducer(world, shapes, dtype=list(dtypes), names=names, **options)
        sizes, kinds, _ = known(shapes, list(dtypes), names)
        self.buckets = [sorted(plan.offsets) for plan in layout(sizes, kinds, options["bucket_bytes"])]
        self._lock = threading.Lock()
        self._begun = False

    def put(self, bucket: int, weight: float | None, gradients: Sequence[Array]) -> None:
        """Hand over the gradients of a bucket; its reduction starts. weight: the samples behind them; None: all ranks count alike."""
        with self._lock:  # a graph may run two buckets at a time
            if not self._begun:
                self.reducer.begin(weight)
                self._begun = True
            for i, gradient in zip(self.buckets[bucket], gradients, strict=True):
                self.reducer.views[i][...] = gradient
                self.reducer.ready(i)

    def collect(self) -> list[Array]:
        """Wait for the means of all gradients, in their order; new arrays, since the backend may keep them past the next step."""
        with self._lock:
            self._begun = False
            with self.world._group.engine.speaking():  # while the program waits for the graph
                self.reducer.wait()
            return [view.copy() for view in self.reducer.views]

"""Whether two ranks train on the same batch, which a loader that is not sharded gives them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from ..world import World
from . import samples
from .agree import digest
from .passes import tensors_in

__all__ = ["SameSamples"]


class SameSamples:
    """Compares the ranks' first batches, once, and warns where two are the same."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._mine: int | None = None
        self._checked = world.size == 1

    def note(self, *inputs: Any) -> None:
        """What a forward is given. Costs something the first time only."""
        if not self._checked and self._mine is None:
            try:
                found = tuple(digest(x) for x in tensors_in(inputs) if x.numel() and x.layout is torch.strided)
            except (RuntimeError, ValueError):  # no plain memory: a float8, a view of torch.func; nothing depends on it
                found = ()
            self._mine = hash(found) if found else None

    def check(self) -> None:
        """Compare, the first time. Collective."""
        if self._checked:
            return
        self._checked = True
        counts = samples.current(self._world).mine != 0 and self._mine is not None
        everyone = self._world.allgather(np.array([[counts, self._mine or 0]], np.int64))
        first: dict[int, int] = {}
        for rank, (counted, batch) in enumerate(everyone.tolist()):
            if counted and first.setdefault(batch, rank) != rank:
                if self._world.rank == 0:
                    warnings.warn(
                        f"ranks {first[batch]} and {rank} train on the same batch, so they do the same work twice; cure: "
                        "hpcdl.torch.loader(dataset, batch_size=…), or a DistributedSampler with this rank and the number of ranks",
                        stacklevel=2,
                    )
                return

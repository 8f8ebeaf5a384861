"""Which parameters any rank has used in a pass, so that a gradient stays None where nobody has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..arrays import Array
from ..world import World

__all__ = ["Use", "length"]


def length(dense: int, sparse: int) -> int:
    """Flags that so many parameters need."""
    return dense + 2 * sparse


class Use:
    """A flag for each parameter, and one more for each sparse one: whether somebody's gradient of it is dense.

    `travelling` is a place among the gradients, float32, where the mean of the flags over all ranks costs nothing; it is there where the
    gradients are reduced without loss. Without it the ranks exchange the flags by themselves. A rank without samples has used nothing.
    """

    def __init__(self, dense: int, sparse: int, travelling: Array | None) -> None:
        self._parameters, self._travelling = dense + sparse, travelling
        self._flags = np.zeros(length(dense, sparse), np.float32) if travelling is None else travelling

    def tell(self, dense: Sequence[torch.Tensor], sparse: Sequence[torch.Tensor], counts: bool) -> None:
        """Note what this rank has used, from ``grad``; nothing, if it does not count."""
        flags = [p.grad is not None for p in (*dense, *sparse)] + [p.grad is not None and not p.grad.is_sparse for p in sparse]
        self._flags[...] = flags if counts else 0

    def hear(self, world: World) -> tuple[list[bool], list[bool]]:
        """After the reduction: which parameters were used, and which sparse ones have a dense gradient somewhere. On all ranks alike."""
        if self._travelling is None:
            world.allreduce(self._flags, "max", name="which parameters were used")
        found = (self._flags > 0).tolist()
        return found[: self._parameters], found[self._parameters :]

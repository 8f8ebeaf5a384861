"""Which parameters any rank has used in a pass, so that a gradient stays None where nobody has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..arrays import Array
from ..world import World

__all__ = ["Use", "length"]


def length(dense: int, sparse: int, exact: bool) -> int:
    """Elements that the flags of so many parameters take among gradients that are reduced without loss, or with some."""
    return dense + 2 * sparse if exact else 1


class Use:
    """A flag for each parameter, and one more for each sparse one: whether somebody's gradient of it is dense.

    `travelling` is a place among the gradients, float32, where the flags cost nothing. Where the reduction is exact, all of them travel.
    Where it is not, one does, which says that this rank has left something out: zeros stay zero in every codec, and the largest of its
    block does not become zero, so all ranks know whether an exchange of flags must follow. Without a place it always follows (top-k may
    leave a single flag out). A rank without samples has used nothing.
    """

    def __init__(self, dense: int, sparse: int, travelling: Array | None) -> None:
        self._parameters, self._travelling = dense + sparse, travelling
        self._flags = np.zeros(length(dense, sparse, exact=True), np.float32)
        self._whole = travelling is not None and len(travelling) == len(self._flags)
        self._default = np.array([1] * self._parameters + [0] * sparse, np.float32)

    def tell(self, dense: Sequence[torch.Tensor], sparse: Sequence[torch.Tensor], counts: bool) -> None:
        """Note what this rank has used, from ``grad``; nothing, if it does not count."""
        flags = [p.grad is not None for p in (*dense, *sparse)] + [p.grad is not None and not p.grad.is_sparse for p in sparse]
        self._flags[...] = flags if counts else 0
        if self._travelling is not None:
            self._travelling[...] = self._flags if self._whole else counts and (self._flags != self._default).any()

    def hear(self, world: World) -> tuple[list[bool], list[bool]]:
        """After the reduction: which parameters were used, and which sparse ones have a dense gradient somewhere. On all ranks alike."""
        flags = self._flags
        if self._whole:
            assert self._travelling is not None
            flags = self._travelling
        elif self._travelling is not None and not self._travelling.any():
            flags = self._default
        else:
            world.allreduce(flags, "max", name="which parameters were used")
        found = (flags > 0).tolist()
        return found[: self._parameters], found[self._parameters :]

"""What has been dropped of the gradients of each variable: tapes come and go with each step, variables stay."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from ..arguments import identity
from ..feedback import Dropped

__all__ = ["dropped_of"]

_held: dict[int, Dropped] = {}


def dropped_of(sources: Sequence[Any]) -> list[Dropped] | None:
    """Of each of `sources`, the same in every step; None where one is no variable but a tensor, which need not come back."""
    if not all(hasattr(source, "assign") for source in sources):
        return None
    return [_of(source) for source in sources]


def _of(variable: Any) -> Dropped:
    key = identity(variable)
    if key not in _held:
        _held[key] = Dropped()
        weakref.finalize(variable, _held.pop, key, None).atexit = False
    return _held[key]

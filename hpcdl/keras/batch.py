"""How many samples stand behind the gradients of the train step that runs, or is compiled, just now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["STAND_IN", "samples", "weighing"]

STAND_IN = -1.1754943508222875e-38
"""The sample weight that marks a batch standing in for no data: the smallest normal float32, below zero, which no user's weight is.

Why in the batch: Keras reads batches ahead, so what is not in the batch itself may belong to another one.
"""

_now = threading.local()


@contextmanager
def weighing(weight: Any) -> Iterator[None]:
    """Within: this rank's gradients have so many samples behind them (a number, or the backend's tensor); None: nobody knows."""
    before, _now.weight = samples(), weight
    try:
        yield
    finally:
        _now.weight = before


def samples() -> Any:
    """What the innermost `weighing` was told; None outside of all."""
    return getattr(_now, "weight", None)

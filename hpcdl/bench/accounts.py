"""What a run costs beside time: memory of the reducer, CPU seconds of the progress loop."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..reduction.reducer import Reducer
from ..world import World

__all__ = ["memory", "progress_seconds"]


def memory(reducer: Reducer) -> dict[str, int]:
    """Bytes that the reducer holds beyond the model, by purpose; empty where it keeps no account."""
    account: Any = getattr(reducer, "memory", None)
    return {name.replace("_", " "): int(nbytes) for name, nbytes in asdict(account).items()} if account is not None else {}


def progress_seconds(world: World) -> float | None:
    """CPU seconds of this rank's progress loop so far; None where it does not count them."""
    found: float | None = getattr(world, "progress_cpu_seconds", None)
    return found

"""Processes that load data outlive the warning that a job is about to end: Slurm sends it to all processes of a job."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint import Preemption

__all__ = ["outliving"]

_SECONDS = 30  # that a worker lives on after SIGTERM, as between Slurm's SIGTERM and its SIGKILL


def outliving(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """`keywords` of a DataLoader, whose workers outlive the signals that `hpcdl.preemption` waits for."""
    return {**keywords, "worker_init_fn": _Begin(keywords.get("worker_init_fn"))} if keywords.get("num_workers") else dict(keywords)


@dataclass(frozen=True)
class _Begin:
    """How a worker begins. A class, so that it can be sent to one that is not forked."""

    users: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), Preemption):
            signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS) and None)  # torch's own ends it at once
        if self.users is not None:
            self.users(worker)

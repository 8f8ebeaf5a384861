"""Threads that complete futures: as many as are blocked at once, and one more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Hands"]


class Hands:
    """Runs small jobs, each at once: on a thread that is idle, else on a new one.

    Why not one thread, or a fixed number: a callback of a future may wait for another future (PowerSGD's hook does), which then needs a
    thread that is free.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def run(self, job: Callable[[], None]) -> None:
        """Have `job` done; returns at once. It must not raise."""
        with self._lock:
            new = self._idle == 0
            self._idle -= not new
        self._jobs.put(job)
        if new:
            threading.Thread(target=self._serve, name="hpcdl-futures", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._jobs.get()()
            with self._lock:
                self._idle += 1

"""The harness's own communicator: what the ranks tell each other about tests, apart from the world under test."""

from __future__ import annotations

import os
import socket
import time
from typing import Any


class Lane:
    """All ranks of the MPI world, on a communicator that only the harness uses."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD.Dup()
        self.rank: int = self._comm.rank
        self.size: int = self._comm.size
        self.pids: list[int | None] = []  # None: on another host
        here = socket.gethostname()
        self.pids = [pid if host == here else None for host, pid in self.exchange((here, os.getpid()))]

    def exchange(self, note: Any) -> list[Any]:
        """Every rank's note, in rank order. Waits without burning the core, as long as it takes."""
        request = self._comm.Ibarrier()
        pause = 2e-4
        while not request.Test():
            time.sleep(pause)
            pause = min(1.5 * pause, 1e-2)
        return list(self._comm.allgather(note))

    def abort(self, status: int) -> None:
        """End all ranks."""
        self._mpi.COMM_WORLD.Abort(status)

"""Worlds that know their rank and nothing else: a plugin for the harness's own tests, which must not depend on what it tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import in_mpi, in_threads


@dataclass
class BareWorld:
    """A rank's place."""

    rank: int
    size: int

    def close(self, error: BaseException | None = None) -> None:
        """Nothing to close."""


def _bare_mpi(n: int, rank: int) -> Any:
    return BareWorld(rank, n) if rank < n else None


def pytest_configure() -> None:
    """Put bare worlds in the place of real ones."""
    in_threads.make_hub = lambda n: n
    in_threads.make_world = lambda hub, rank: BareWorld(rank, hub)
    in_mpi.make_world = _bare_mpi

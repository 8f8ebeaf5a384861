"""Runs a body on n ranks that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from .outcome import Outcome, attempt, lived, settle

CLOSING = 5.0  # seconds that the ranks of a hung test get to end after they were told


def make_hub(n: int) -> Any:
    """What joins n ranks of one process."""
    from hpcdl.transport.threads import ThreadHub

    return ThreadHub(n)


def make_world(hub: Any, rank: int) -> Any:
    """Rank `rank`'s world on `hub`."""
    from hpcdl.world import World

    return World(hub.transport(rank))


class InThreads:
    """`ranks(n, body, *args, **kw)` for ranks as threads: the bodies' return values in rank order, or the first failure."""

    def __call__(self, n: int, body: Callable[..., Any], *args: Any, **kw: Any) -> list[Any]:
        __tracebackhide__ = True
        hub = make_hub(n)
        worlds: dict[int, Any] = {}
        done: dict[int, Outcome] = {}

        def one(rank: int) -> None:
            def call() -> Any:
                __tracebackhide__ = True
                worlds[rank] = make_world(hub, rank)
                return lived(worlds[rank], body, args, kw)

            done[rank] = attempt(rank, call)

        threads = [threading.Thread(target=one, args=(rank,), name=f"rank {rank} of {n}", daemon=True) for rank in range(n)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # the watchdog's alarm, or Ctrl-C
            ended = [f"rank {rank}: {outcome.line}\n{outcome.text}" for rank, outcome in sorted(done.items())]
            _close_all([world for rank, world in worlds.items() if rank not in done], error)
            if isinstance(error, pytest.fail.Exception):
                raise pytest.fail.Exception("\n".join([str(error), *ended])) from None
            raise
        outcomes = [done[rank] for rank in range(n)]
        settle(outcomes, n)
        return [outcome.value for outcome in outcomes]


def _close_all(worlds: list[Any], error: BaseException) -> None:
    """End the worlds of ranks that hang, so that whoever waits for them stops; each from a thread of its own, for it may hang too."""
    closers = [threading.Thread(target=attempt, args=(0, lambda world=world: world.close(error)), daemon=True) for world in worlds]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(CLOSING)

"""Runs a body on n ranks that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from .outcome import Outcome, attempt, settle

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
        done: list[Outcome | None] = [None] * n
        all_done = threading.Barrier(n)

        def one(rank: int) -> None:
            worlds = []

            def call() -> Any:
                __tracebackhide__ = True
                worlds.append(make_world(hub, rank))
                return body(worlds[0], *args, **kw)

            outcome = attempt(rank, call)
            if outcome.error is not None:
                _tell(hub, rank, outcome.error)
            done[rank] = outcome
            try:
                all_done.wait()  # nobody closes while a neighbour still works
            except threading.BrokenBarrierError:
                return
            closing = attempt(rank, worlds[0].close) if worlds else outcome
            if closing.state == "failed" and outcome.state == "passed":
                done[rank] = closing

        threads = [threading.Thread(target=one, args=(rank,), name=f"rank {rank} of {n}", daemon=True) for rank in range(n)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # the watchdog's alarm, or Ctrl-C
            ended = [f"rank {rank}: {outcome.line}\n{outcome.text}" for rank, outcome in enumerate(done) if outcome is not None]
            all_done.abort()
            for rank in range(n):
                if done[rank] is None:
                    _tell(hub, rank, error)
            for thread in threads:
                thread.join(CLOSING / n)
            if isinstance(error, pytest.fail.Exception):
                raise pytest.fail.Exception("\n".join([str(error), *ended])) from None
            raise
        outcomes = [outcome for outcome in done if outcome is not None]
        settle(outcomes, n)
        return [outcome.value for outcome in outcomes]


def _tell(hub: Any, rank: int, error: BaseException) -> None:
    """Let the others know that `rank` is lost to them, so that they need not wait for it."""
    if hasattr(hub, "fail"):
        hub.fail(rank, error)

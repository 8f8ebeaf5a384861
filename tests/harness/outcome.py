"""How the body of a test ended on one rank, and how the outcomes of all ranks become one."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest


class RankFailure(AssertionError):
    """The body of a test raised on at least one rank."""


class Elsewhere(RankFailure):
    """This rank and another one are at different places of the test: the consequence of what happened there."""


@dataclass
class Outcome:
    """One rank's end of a body: `state` is passed, failed or skipped."""

    rank: int
    state: str = "passed"
    line: str = "passed"  # in one line
    text: str = ""  # the full traceback
    echo: bool = False  # raised only because another rank did (PeerLost and its kin)
    moment: float = 0.0  # when; comparable on one host
    value: Any = None
    error: BaseException | None = field(default=None, repr=False)


def attempt(rank: int, call: Callable[[], Any]) -> Outcome:
    """Call `call` as rank `rank` and catch whatever comes."""
    __tracebackhide__ = True
    try:
        return Outcome(rank, value=call())
    except BaseException as error:  # SystemExit and pytest's own outcomes too
        return caught(rank, error)


def lived(world: Any, body: Callable[..., Any], args: Sequence[Any], kw: Mapping[str, Any]) -> Any:
    """Run `body` in `world` and leave it, as a program does at its end: whoever still waits for this rank hears of it."""
    __tracebackhide__ = True
    try:
        value = body(world, *args, **kw)
    except BaseException as error:
        world.close(error)
        raise
    world.close()
    return value


def caught(rank: int, error: BaseException) -> Outcome:
    """The outcome of a rank that raised `error`."""
    state = "skipped" if isinstance(error, pytest.skip.Exception) else "failed"
    try:
        first = (str(error).strip().splitlines() or [""])[0]
    except Exception as worse:
        first = f"(its message cannot be shown: {type(worse).__name__})"
    line = first if state == "skipped" else f"{type(error).__name__}: {first}"
    return Outcome(rank, state, line, traceback_of(error), _is_echo(error), time.monotonic(), error=error)


def traceback_of(error: BaseException) -> str:
    """The traceback as pytest draws it (assertions explained), without the harness's own frames."""
    try:
        return str(pytest.ExceptionInfo.from_exception(error).getrepr(style="short"))
    except Exception:  # a frame whose source cannot be read, an exception whose __str__ raises, …
        return "".join(traceback.format_exception(error))


def settle(outcomes: Sequence[Outcome], size: int) -> None:
    """Return if every rank passed; else raise the same on each caller: skip, or RankFailure with the guilty rank's traceback.

    The guilty one is the earliest of those that did not raise merely because a peer was lost.
    """
    __tracebackhide__ = True
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        guilty = min(failed, key=lambda outcome: (outcome.echo, outcome.moment, outcome.rank))
        others = [f"rank {other.rank}: {other.line}" for other in outcomes if other is not guilty]
        head = f"rank {guilty.rank} of {size}: {guilty.line}"
        raise RankFailure("\n".join([head, "", guilty.text, "", *others])) from None
    for outcome in outcomes:
        if outcome.state == "skipped":
            pytest.skip(f"rank {outcome.rank}: {outcome.line}")


def _is_echo(error: BaseException) -> bool:
    try:
        from hpcdl.errors import CommunicationError
    except ImportError:
        return False
    return isinstance(error, CommunicationError)

"""Who reduces: this package, or an installed Horovod. Chosen once, at the start, by all ranks alike."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .collectives.collective import collectives
from .collectives.horovod import Horovod
from .errors import LaunchError, Mismatch, UnknownName, ranks_text
from .transport import horovod
from .world import World

__all__ = ["ENGINES", "finish", "gather", "part", "start", "words"]

ENGINES = ("hpcdl", "horovod")

_begun: horovod.HorovodSums | None = None


def words(engine: str | None) -> str:
    """What this rank tells the others: the engine that its program asks for, or nothing, and the one that HPCDL_ENGINE names."""
    return f"{engine or ''} {os.environ.get('HPCDL_ENGINE', '').strip() or 'hpcdl'}"


def start(world: World, told: list[str], comm: Any) -> None:
    """Let the engine that the ranks have `told` of reduce for `world`, whose transport lies over `comm`. Collective.

    Where no program asks for one, HPCDL_ENGINE decides as it is where rank 0 runs. The same error on every rank: UnknownName, Mismatch
    where ranks ask for different ones, LaunchError where any rank finds no Horovod that fits.
    """
    global _begun
    asked = [each.split(" ", 1)[0] for each in told]
    chosen = asked[0] or told[0].split(" ", 1)[1]
    if chosen not in ENGINES:
        raise UnknownName(f"unknown engine {chosen!r}; known: {', '.join(ENGINES)}")
    others = {name: [rank for rank, other in enumerate(asked) if other == name] for name in set(asked) - {"", chosen}}
    if others:
        who = "; ".join(f"{ranks_text(ranks)}: {name!r}" for name, ranks in sorted(others.items()))
        raise Mismatch(f"ranks disagree on the engine: rank 0: {chosen!r}; {who}; cure: the same init(engine=…) on every rank")
    if chosen == "hpcdl":
        return
    _agree(world, horovod.why_not())
    trouble = ""
    try:
        _begun = horovod.begin(comm, world.rank, world.size)
    except Exception as error:
        trouble = str(error)
    _agree(world, trouble)
    if Horovod.name not in collectives:
        collectives.register(Horovod.name, Horovod)
    world.reduce_by(_begun)


def finish() -> None:
    """End what was started here; once all ranks are done, before MPI ends."""
    global _begun
    if _begun is not None:
        _begun.close()
        _begun = None


def part(world: World) -> None:
    """The last thing before this process ends, when nothing here uses MPI any more."""
    if world.broken is None:
        horovod.await_others(world.size)


def _agree(world: World, trouble: str) -> None:
    """Raise the same LaunchError on every rank where any is in trouble."""
    told = gather(world, trouble)
    bad = {text: [rank for rank, other in enumerate(told) if other == text] for text in told if text}
    if bad:
        raise LaunchError("engine='horovod': " + "; ".join(f"{ranks_text(ranks)} of {world.size}: {text}" for text, ranks in bad.items()))


def gather(world: World, text: str) -> list[str]:
    """Every rank's `text`, in rank order. Collective."""
    data = world.allgather(np.frombuffer(text.encode() + b"\0", np.uint8).copy())
    return bytes(data).decode().split("\0")[:-1]

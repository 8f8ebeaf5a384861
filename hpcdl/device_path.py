"""How arrays on devices travel: through the host, by a GPU-aware MPI, or by NCCL. Chosen once, at the start, by all ranks alike."""

from __future__ import annotations

import os

from .arrays import nccl
from .collectives.devices import PATHS, DevicePath
from .engine import gather
from .errors import HpcdlError, LaunchError, Mismatch, UnknownName, ranks_text
from .transport import awareness
from .world import World

__all__ = ["VARIABLE", "follow", "now", "take", "words"]

VARIABLE = "HPCDL_DEVICE_PATH"


def words(asked: str | None, mpi: bool) -> str:
    """What this rank tells the others: the path that its program asks for, the one that HPCDL_DEVICE_PATH names, whether its MPI library
    takes device memory, and what is wrong with the site's word for that. mpi: whether there is one below."""
    trouble, aware = "", False
    try:
        aware = mpi and awareness.takes_device_memory()
    except HpcdlError as error:
        trouble = str(error)
    return "\t".join([asked or "", os.environ.get(VARIABLE, "").strip() or PATHS[0], str(int(aware)), trouble])


def take(world: World, told: list[str]) -> None:
    """Let arrays on devices go by the path that the ranks have `told` of. Collective.

    Where no program asks for one, HPCDL_DEVICE_PATH decides as it is where rank 0 runs. The same error on every rank: UnknownName, Mismatch
    where ranks ask for different ones, LaunchError where the one that is asked for cannot be.
    """
    rows = [each.split("\t") for each in told]
    asked = [row[0] for row in rows]
    chosen = asked[0] or rows[0][1]
    if chosen not in PATHS:
        raise UnknownName(f"unknown device path {chosen!r}; known: {', '.join(PATHS)}")
    others = {name: [rank for rank, other in enumerate(asked) if other == name] for name in set(asked) - {"", chosen}}
    if others:
        who = "; ".join(f"{ranks_text(ranks)}: {name!r}" for name, ranks in sorted(others.items()))
        cure = "the same init(device_path=…) on every rank"
        raise Mismatch(f"ranks disagree on the device path: rank 0: {chosen!r}; {who}; cure: {cure}")
    for rank, row in enumerate(rows):
        if row[3]:
            raise LaunchError(f"rank {rank} of {world.size}: {row[3]}")
    lacking = [rank for rank, row in enumerate(rows) if row[2] != "1"]
    if chosen == "aware" and lacking:
        cure = f"an MPI built for CUDA, {awareness.OVERRIDE}=1 where the site knows better, or {VARIABLE}=staged"
        what = f"the MPI library of {ranks_text(lacking)} does not say that it takes device memory"
        raise LaunchError(f"device path 'aware' cannot be: {what}; cure: {cure}")
    if chosen == "nccl" and world.size > 1:
        bad = [(rank, text) for rank, text in enumerate(gather(world, nccl.why_not())) if text]
        if bad:
            told_by = ranks_text([rank for rank, text in bad if text == bad[0][1]])
            raise LaunchError(f"device path 'nccl' cannot be: {told_by}: {bad[0][1]}; cure: mend that, or {VARIABLE}=auto")
    follow(world, DevicePath(chosen, not lacking))


def follow(world: World, path: DevicePath) -> None:
    """Let arrays on devices go by `path` from now on; also in groups that are made later. On all ranks alike, while nothing goes on."""
    world._group.devices.follow(path)
    world._group.recipes.clear()


def now(world: World) -> str:
    """The path of sums on devices, as far as it is known, and why it is none of the better ones. Not collective."""
    devices = world._group.devices
    if devices.links is None:
        return devices.path.messages
    found = devices.links.state()
    return found if found == "nccl" else f"{devices.path.messages} (NCCL: {found})"

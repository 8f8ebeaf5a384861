"""All ranks read the newest checkpoint that is whole: each file is read and checked by one of them, which sends it to the others."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..agree import gather_texts
from ..errors import DataError
from ..world import World
from .bundle import Bundle, load, merged
from .folder import Folder
from .manifest import Entry, Manifest

__all__ = ["Found", "read"]


@dataclass(frozen=True)
class Found:
    """A checkpoint. shared: what is the same on all ranks, by part; own: of this rank, or of all `ranks` where these are others.

    files: the parts that have written files of their own. plan: what collectives were chosen by.
    """

    path: Path
    step: int
    ranks: int
    shared: dict[str, Any]
    own: list[dict[str, Any]]
    files: frozenset[str]
    plan: dict[str, Any]


def read(world: World, folder: Folder) -> Found | None:
    """The newest that is whole; None where there is none at all. Collective.

    Raises DataError, the same on every rank, where there are some and none is whole. Rank 0 warns of each that it passes over.
    """
    bad: list[str] = []
    passed: list[int] = []
    for step in _steps(world, folder):
        try:
            found = _read(world, folder, step)
        except DataError as error:
            bad.append(f"{folder.at(step)} is damaged ({error})")
            passed.append(step)
            continue
        except _Unreadable as error:
            raise DataError(
                f"{folder.at(step)} cannot be read: {error}; cure: mend that, or rename it to begin from the one before"
            ) from None
        if bad and world.rank == 0:
            folder.set_aside(passed)
            warnings.warn(f"{'; '.join(bad)}: passed over for {found.path}", RuntimeWarning, stacklevel=3)
        return found
    if bad:
        raise DataError(f"no checkpoint in {folder.path} is whole: {'; '.join(bad)}; cure: remove them to begin anew")
    return None


class _Unreadable(Exception):
    """Not damaged, as far as can be told: it may be there again in a moment, so it must not be given up."""


def _steps(world: World, folder: Folder) -> list[int]:
    def look() -> str:
        if world.rank:
            return ""
        folder.recover()
        return json.dumps(folder.steps())

    try:
        steps: list[int] = json.loads(_together(world, look)[0])
    except _Unreadable as error:
        raise DataError(f"cannot look for checkpoints: {error}") from None
    return steps


def _read(world: World, folder: Folder, step: int) -> Found:
    """Raises DataError, the same on every rank, where it is damaged."""
    text = _together(world, lambda: folder.manifest(step).to_json() if world.rank == 0 else "")[0]
    manifest = Manifest.from_json(text)
    ours = [entry for entry in manifest.files if entry.part is None]
    shared = [entry for entry in ours if entry.name.startswith("shared")]
    own = [entry for entry in ours if not entry.name.startswith("shared")]
    readers = {entry.name: number % world.size for number, entry in enumerate(manifest.files)}
    alike = manifest.ranks == world.size
    if alike:
        readers |= {entry.name: rank for rank, entry in enumerate(own)}
    mine: dict[str, tuple[bytes, Bundle]] = {}

    def check() -> str:
        for entry in manifest.files:
            if readers[entry.name] != world.rank:
                continue
            if entry.part is not None:
                folder.check(step, entry)
            else:
                data = folder.read(step, entry)
                mine[entry.name] = data, load(data)
        return ""

    _together(world, check)

    def sent(entry: Entry) -> Bundle:
        data, bundle = mine.get(entry.name, (None, None))
        received = _sent(world, data, entry.nbytes, readers[entry.name])
        return load(received) if bundle is None else bundle

    owns = [mine[entry.name][1] for entry in own if entry.name in mine] if alike else list(map(sent, own))
    shares, found = list(map(sent, shared)), []

    def unpack() -> str:
        states = merged(shares), [merged([bundle]) for bundle in owns]
        parts = frozenset(entry.part for entry in manifest.files if entry.part is not None)
        found.append(Found(folder.at(step), step, manifest.ranks, *states, parts, manifest.plan))
        return ""

    _together(world, unpack)
    return found[0]


def _together(world: World, act: Callable[[], str]) -> list[str]:
    """Let every rank act: what each says. Raises DataError or _Unreadable, the same on every rank, where any has found damage, or could
    not look.
    """
    told = ["", ""]
    try:
        told = ["", act()]
    except OSError as error:
        told = ["unreadable", f"rank {world.rank}: {error}"]
    except Exception as error:  # whatever a file that somebody has made leads to
        told = ["damaged", str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"]
    everyone = [json.loads(text) for text in gather_texts(world, json.dumps(told))]
    for kind, raises in (("unreadable", _Unreadable), ("damaged", DataError)):
        if problems := [text for found, text in everyone if found == kind]:
            raise raises("; ".join(dict.fromkeys(problems)))
    return [text for _, text in everyone]


def _sent(world: World, data: bytes | None, nbytes: int, root: int) -> bytes:
    """The bytes that rank `root` has, on every rank."""
    payload = np.empty(nbytes, np.uint8) if data is None else np.frombuffer(data, np.uint8).copy()
    received: bytes = world.broadcast(payload, root).tobytes()
    return received

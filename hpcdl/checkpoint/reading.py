"""All ranks read the newest checkpoint that is whole: each file is read and checked by one of them, which sends it to the others."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..agree import gather_texts
from ..errors import DataError
from ..world import World
from .bundle import Bundle, load
from .folder import Entry, Folder, Manifest

__all__ = ["Found", "read"]


@dataclass(frozen=True)
class Found:
    """A checkpoint. shared: the bundles of what is the same on all ranks; own: of this rank, or of all `ranks` where these are others."""

    path: Path
    step: int
    ranks: int
    shared: list[Bundle]
    own: list[Bundle]


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
        if bad and world.rank == 0:
            folder.set_aside(passed)
            warnings.warn(f"{'; '.join(bad)}: passed over for {found.path}", RuntimeWarning, stacklevel=3)
        return found
    if bad:
        raise DataError(f"no checkpoint in {folder.path} is whole: {'; '.join(bad)}; cure: remove them to begin anew")
    return None


def _steps(world: World, folder: Folder) -> list[int]:
    told: dict[str, Any] = {}
    if world.rank == 0:
        try:
            folder.recover()
            told = {"steps": folder.steps()}
        except OSError as error:
            told = {"problem": str(error)}
    told = json.loads(gather_texts(world, json.dumps(told))[0])
    if "problem" in told:
        raise DataError(f"rank 0 of {world.size} cannot look for checkpoints: {told['problem']}")
    steps: list[int] = told["steps"]
    return steps


def _read(world: World, folder: Folder, step: int) -> Found:
    """Raises DataError, the same on every rank, where it is damaged."""
    text, problem = "", ""
    if world.rank == 0:
        try:
            text = folder.manifest(step).to_json()
        except DataError as error:
            problem = str(error)
    text, problem = json.loads(gather_texts(world, json.dumps([text, problem]))[0])
    if problem:
        raise DataError(problem)
    manifest = Manifest.from_json(text)
    shared = [entry for entry in manifest.files if entry.name.startswith("shared")]
    own = [entry for entry in manifest.files if not entry.name.startswith("shared")]
    readers = {entry.name: number % world.size for number, entry in enumerate([*shared, *own])}
    alike = manifest.ranks == world.size
    if alike:
        readers |= {entry.name: rank for rank, entry in enumerate(own)}
    mine, problem = _checked(folder, step, [entry for entry in manifest.files if readers[entry.name] == world.rank])
    problems = [text for text in gather_texts(world, problem) if text]
    if problems:
        raise DataError("; ".join(problems))

    def sent(entries: list[Entry]) -> list[Bundle]:
        return [load(_sent(world, mine.get(entry.name), entry.nbytes, readers[entry.name])) for entry in entries]

    owns = [load(mine[entry.name]) for entry in own if entry.name in mine] if alike else sent(own)
    return Found(folder.at(step), step, manifest.ranks, sent(shared), owns)


def _checked(folder: Folder, step: int, entries: list[Entry]) -> tuple[dict[str, bytes], str]:
    """The bytes of these files, and what is wrong with them."""
    found, problems = {}, []
    for entry in entries:
        try:
            found[entry.name] = folder.read(step, entry)
            load(found[entry.name])
        except DataError as error:
            problems.append(str(error))
    return found, "; ".join(problems)


def _sent(world: World, data: bytes | None, nbytes: int, root: int) -> bytes:
    """The bytes that rank `root` has, on every rank."""
    payload = np.empty(nbytes, np.uint8) if data is None else np.frombuffer(data, np.uint8).copy()
    received: bytes = world.broadcast(payload, root).tobytes()
    return received

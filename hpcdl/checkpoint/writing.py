"""All ranks write one checkpoint: it becomes the newest if every one of them could, and is given up otherwise."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from ..agree import gather_texts
from ..collectives.carry import kept
from ..errors import CommunicationError
from ..world import World
from .bundle import Bundle, dump
from .folder import Folder
from .manifest import Entry, Manifest
from .parts import FileWriter

__all__ = ["file_name", "write"]


def file_name(kind: str, number: int, count: int) -> str:
    """The name of a rank's file."""
    return f"{kind}-{number:05d}-of-{count:05d}.safetensors"


def write(world: World, folder: Folder, step: int, bundles: Mapping[str, Bundle], writers: Mapping[str, FileWriter], keep: int) -> bool:
    """Write this rank's `bundles`, by file name, and let parts write; whether the checkpoint is whole. Collective.

    Rank 0 warns if it is not.
    """
    first = world.rank == 0
    problems, _ = _together(world, step, lambda: folder.begin(step) if first else None)
    files: list[Entry] = []
    if not problems:
        problems, everyone = _together(world, step, lambda: [folder.write(step, name, dump(bundle)) for name, bundle in bundles.items()])
        files = [Entry(**values) for entries in everyone for values in entries]
    for part, writer in writers.items():
        if not problems:
            problems, everyone = _together(world, step, partial(folder.write_files, step, part, writer))
            files += [Entry(**values) for entries in everyone for values in entries]
    if not problems:
        problems, _ = _together(
            world, step, lambda: folder.finish(Manifest(step, world.size, tuple(files), kept(world._group))) if first else None
        )
    if problems and first:
        folder.give_up(step)
        try:
            newest = next(iter(folder.steps()), None)
        except OSError:
            newest = None
        left = "there is none before it" if newest is None else f"the last good one is {folder.at(newest)}"
        text = f"the checkpoint of step {step} could not be written: {'; '.join(problems)}; training goes on, and {left}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    elif first:
        folder.keep(keep, step)
    return not problems


def _together(world: World, step: int, act: Callable[[], list[Entry] | None]) -> tuple[list[str], list[Any]]:
    """Let every rank act: what went wrong, by rank, and the files of each. The same on all ranks."""
    try:
        told: dict[str, Any] = {"step": step, "files": [asdict(entry) for entry in act() or ()]}
    except CommunicationError:
        raise
    except Exception as error:  # whatever it is: training is not to end because of it, and the other ranks wait to hear
        told = {"step": step, "problem": f"{type(error).__name__}: {error}"}
    everyone = [json.loads(text) for text in gather_texts(world, json.dumps(told))]
    problems = [f"rank {rank} of {world.size}: {each['problem']}" for rank, each in enumerate(everyone) if "problem" in each]
    other = next((rank for rank, each in enumerate(everyone) if each["step"] != everyone[0]["step"]), 0)
    if other:
        problems.append(f"rank 0 saves step {everyone[0]['step']}, and rank {other} step {everyone[other]['step']}; all must save the same")
    return problems, [each.get("files", []) for each in everyone]

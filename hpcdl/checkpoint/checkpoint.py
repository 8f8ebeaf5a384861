"""Save and restore what a training consists of: atomically, checked, in the background, on any number of ranks."""

from __future__ import annotations

import logging
import secrets
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..agree import compare, count, gather_texts
from ..errors import DataError, InvalidArgument
from ..world import World
from .bundle import Bundle, snapshot
from .folder import Folder
from .parts import Part
from .reading import Found, read
from .writing import file_name, write

__all__ = ["Checkpoint"]

_PATIENCE = 86400.0  # seconds that ranks wait for one that writes: a slow disk is no reason to end a training
_log = logging.getLogger("hpcdl.checkpoint")


class Checkpoint:
    """The checkpoints of one training, in `folder`. Made by all ranks with the same arguments; every method is collective.

    parts: what is saved, by name. Each is a dict of arrays and plain values, whose arrays are overwritten in place by `restore`; or it has
    ``state_dict()`` and ``load_state_dict(state)``. Such state is the same on all ranks. What differs between ranks, a part gives by
    ``rank_state_dict()`` and gets back by ``load_rank_state_dict(state)`` on as many ranks; on another number, if it can, all of it by
    ``load_all_rank_state_dicts(states)``, and if it cannot it is left as it is, with a warning.

    keep: the newest so many stay. spread: all ranks write, each a part of what is the same on all, in place of rank 0: for models so large
    that one writer takes too long. background: `save` returns once there is a copy in memory, and a thread writes it.

    Raises InvalidArgument for a bad argument.
    """

    def __init__(
        self, folder: str | Path, world: World, parts: Mapping[str, Any], keep: int = 3, spread: bool = False, background: bool = True
    ) -> None:
        if keep < 1:
            raise InvalidArgument(f"keep must be at least 1, got {keep}")
        self._parts = [Part(name, thing) for name, thing in parts.items()]
        self._world = world.group(range(world.size))  # of its own: its thread communicates while the training does
        self._world.set_timeout(_PATIENCE)
        told = [f"folder: {Path(folder).absolute()}", f"keep: {keep}", f"spread: {spread}"]
        told += [f"part {part.name!r}: {'shared' * part.shared} {'own' * part.own}" for part in self._parts]
        compare(self._world, told, "the arguments of Checkpoint", cure="give the same on every rank")
        run = gather_texts(self._world, secrets.token_hex(4))[0]
        self._folder = Folder(Path(folder), run)
        self._keep, self._background = keep, background
        self._writers = world.size if spread else 1
        self._thread: threading.Thread | None = None
        self._lost: Exception | None = None
        self.saved: int | None = None  # step of the newest that is whole, as far as this rank knows

    def save(self, step: int) -> None:
        """Save all parts as of `step`, the number of steps done. Waits for the save before, if that is still being written.

        What cannot be written (a full disk, say) is given up with a RuntimeWarning on rank 0; training goes on, and the one before stays.
        """
        step = count("step", step)
        if step < 0:
            raise InvalidArgument(f"step must not be negative, got {step}")
        self.wait()
        rank, bundles = self._world.rank, dict[str, Bundle]()
        shared = {part.name: part.state() for part in self._parts if part.shared}
        if rank < self._writers:
            bundles[file_name("shared", rank, self._writers)] = snapshot(shared, rank, self._writers)
        if own := {part.name: part.own_state() for part in self._parts if part.own}:
            bundles[file_name("rank", rank, self._world.size)] = snapshot(own)
        if self._background:
            self._thread = threading.Thread(target=self._write, args=(step, bundles), name="hpcdl-checkpoint")
            self._thread.start()
        else:
            self._write(step, bundles)
            self.wait()

    def wait(self) -> None:
        """Return once the last save is on the disk, or given up. Raises CommunicationError where the ranks could not agree on it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._lost is not None:
            raise self._lost

    def restore(self) -> int | None:
        """Give all parts what the newest checkpoint holds; its step, or None where there is none.

        One that is torn, truncated, damaged or foreign is passed over for the one before, with a RuntimeWarning on rank 0 that names both.
        Raises DataError, the same on every rank, where there are some and none is whole, or where it is of another model.
        """
        self.wait()
        found = read(self._world, self._folder)
        if found is None:
            return None
        problem = ""
        try:
            self._take(found)
        except DataError as error:
            problem = str(error)
        problems = [(rank, text) for rank, text in enumerate(gather_texts(self._world, problem)) if text]
        if problems:
            raise DataError(f"{found.path}: rank {problems[0][0]} of {self._world.size}: {problems[0][1]}")
        self.saved = found.step
        return found.step

    def _take(self, found: Found) -> None:
        saved = {*(found.own[0] if found.own else ())}
        here, there = {part.name for part in self._parts}, {*found.shared, *saved}
        if here != there or any(part.shared != (part.name in found.shared) for part in self._parts):
            raise DataError(f"it holds {_names(there)}, and the parts here are {_names(here)}, or are of another kind")
        for part in self._parts:
            if part.shared:
                part.load(found.shared[part.name])
            if part.own and part.name not in saved:
                self._warn(f"{part.name!r} was saved without what differs between ranks; that stays as it is")
            elif part.own and found.ranks == self._world.size:
                part.load_own(found.own[0][part.name])
            elif part.own and not part.load_all([states[part.name] for states in found.own]):
                self._warn(f"{part.name!r} was saved by each of {found.ranks} ranks; on {self._world.size} it stays as it is")

    def _warn(self, text: str) -> None:
        if self._world.rank == 0:
            warnings.warn(text, RuntimeWarning, stacklevel=5)

    def close(self) -> None:
        """Wait for the last save, and give back what this holds."""
        self.wait()
        self._world.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()

    def _write(self, step: int, bundles: dict[str, Bundle]) -> None:
        try:
            if write(self._world, self._folder, step, bundles, self._keep):
                self.saved = step
        except Exception as error:  # raised again by whoever waits for it
            self._lost = error
            _log.error("the checkpoint of step %d is lost: %s", step, error)


def _names(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"

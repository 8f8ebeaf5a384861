"""Save and restore what a training consists of: atomically, checked, in the background, on any number of ranks."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..agree import all_or_none, compare, count, gather_texts
from ..collectives.carry import differs, take
from ..errors import DataError, InvalidArgument
from ..world import World
from .bundle import Bundle, snapshot
from .folder import Folder
from .manifest import files_name
from .parts import FileWriter, Part
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
    ``load_all_rank_state_dicts(states)``, and if it cannot it is left as it is, with a warning. What lies in pieces on the ranks, a part
    writes and reads itself: ``file_writer()`` returns a function that writes a copy of what it is now into a folder, perhaps later and on
    another thread, and returns the names of this rank's files; ``load_files(folder)`` reads them, on any number of ranks.

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
        self._told = world  # where the training communicates: whoever does something else there while others save is heard of soon
        self._world = world.group(range(world.size))  # of its own: its thread communicates while the training does
        self._world.set_timeout(_PATIENCE)
        told = [f"folder: {Path(folder).absolute()}", f"keep: {keep}", f"spread: {spread}"]
        told += [f"part {part.name!r}: {'shared' * part.shared} {'own' * part.own} {'files' * part.files}" for part in self._parts]
        compare(self._world, told, "the arguments of Checkpoint", cure="give the same on every rank")
        run = gather_texts(self._world, secrets.token_hex(4))[0]
        job, again = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
        self._folder = Folder(Path(folder), f"job{job}.{run}" if job else run, f"job{job}." if job and again else None)
        self.folder = self._folder.path
        self._keep, self._background = keep, background
        self._writers = world.size if spread else 1
        self._thread: threading.Thread | None = None
        self._lost: Exception | None = None
        self.saved: int | None = None  # step of the newest that is whole, as far as this rank knows

    def save(self, step: int) -> None:
        """Save all parts as of `step`, the number of steps done. Waits for the save before, if that is still being written.

        What cannot be written (a full disk, say) is given up with a RuntimeWarning on rank 0; training goes on, and the one before stays.
        Raises InvalidArgument, the same on every rank, where any of them has a part that gives what a checkpoint cannot hold.
        """
        step = count("step", step)
        if step < 0:
            raise InvalidArgument(f"step must not be negative, got {step}")
        self.wait()
        bundles, writers = all_or_none(self._told, f"step {step} cannot be saved", self._copied, InvalidArgument)
        if self._background:
            self._thread = threading.Thread(target=self._write, args=(step, bundles, writers), name="hpcdl-checkpoint")
            self._thread.start()
        else:
            self._write(step, bundles, writers)
            self.wait()

    def _copied(self) -> tuple[dict[str, Bundle], dict[str, FileWriter]]:
        """What this rank has to write: its files, and what writes the parts' own."""
        rank, bundles = self._world.rank, dict[str, Bundle]()
        shared = {part.name: part.state() for part in self._parts if part.shared}
        if rank < self._writers:
            bundles[file_name("shared", rank, self._writers)] = snapshot(shared, rank, self._writers)
        if own := {part.name: part.own_state() for part in self._parts if part.own}:
            bundles[file_name("rank", rank, self._world.size)] = snapshot(own)
        return bundles, {part.name: part.file_writer() for part in self._parts if part.files}

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
        On as many ranks placed alike, with the same MPI library, `auto` chooses collectives as it did then, in reducers too that there are
        already, so that sums keep their order. Raises DataError, the same on every rank, where there are some and none is whole, or where
        it is of another model.
        """
        self.wait()
        found = read(self._world, self._folder)
        if found is None:
            return None
        all_or_none(self._world, str(found.path), lambda: self._take(found), DataError)
        self._follow(found.plan)
        self.saved = found.step
        if self._world.rank == 0 and (times := os.environ.get("SLURM_RESTART_COUNT", "0")) != "0":
            print(f"hpcdl: restart {times} of Slurm's job goes on after step {found.step}, from {found.path}", file=sys.stderr, flush=True)
        return found.step

    def remove(self) -> None:
        """Remove all checkpoints, as the training is through. What cannot be removed stays, with a RuntimeWarning on rank 0."""
        self.wait()
        if self._world.rank == 0:
            try:
                self._folder.clear()
            except OSError as error:
                warnings.warn(f"the checkpoints in {self.folder} could not be removed: {error}", RuntimeWarning, stacklevel=2)
        self._world.barrier()
        self.saved = None

    def _take(self, found: Found) -> None:
        saved = {*(found.own[0] if found.own else ())}
        here, there = {part.name for part in self._parts}, {*found.shared, *saved, *found.files}
        alike = all(part.shared == (part.name in found.shared) and part.files == (part.name in found.files) for part in self._parts)
        if here != there or not alike:
            raise DataError(f"it holds {_names(there)}, and the parts here are {_names(here)}, or are of another kind")
        for part in self._parts:
            if part.files:  # first, since these communicate: nothing may have gone wrong on some ranks only
                part.load_files(found.path / files_name(part.name))
        for part in self._parts:
            if part.shared:
                part.load(found.shared[part.name])
            if part.own and part.name not in saved:
                self._warn(f"{part.name!r} was saved without what differs between ranks; that stays as it is")
            elif part.own and found.ranks == self._world.size:
                part.load_own(found.own[0][part.name])
            elif part.own and not part.load_all([states[part.name] for states in found.own]):
                self._warn(f"{part.name!r} was saved by each of {found.ranks} ranks; on {self._world.size} it stays as it is")

    def _follow(self, plan: dict[str, Any]) -> None:
        """Let `auto` choose as it did, if this is the same place, so that sums keep their order."""
        why_not = next(filter(None, gather_texts(self._world, differs(self._told._group, plan))), "")
        if not why_not:
            take(self._told._group, plan)
        if self._world.rank == 0:
            _log.info("the checkpoint's plan is %s", f"not used: {why_not}" if why_not else "used: collectives are chosen as before")

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

    def _write(self, step: int, bundles: dict[str, Bundle], writers: dict[str, FileWriter]) -> None:
        try:
            if write(self._world, self._folder, step, bundles, writers, self._keep):
                self.saved = step
        except Exception as error:  # raised again by whoever waits for it
            self._lost = error
            _log.error("the checkpoint of step %d is lost: %s", step, error)


def _names(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"

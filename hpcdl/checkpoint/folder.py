"""The checkpoints of a folder: each a folder of its own, whole or not there, and told from torn ones by the checksums of its manifest.

    FOLDER/step-000000001200/manifest.json      what belongs to it: bytes and BLAKE2b of each file; written last
                             shared-00000-of-00001.safetensors, rank-00000-of-00004.safetensors, …
                             model.files/…      of a part that writes files of its own
    FOLDER/.writing-step-000000001300/          not finished yet, or given up
    FOLDER/.replaced-step-000000001200/         while one of the same step takes its place

A checkpoint is written beside, synced, and renamed (rename of folders: POSIX, rename()); so a crash leaves the one before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from ..errors import DataError
from .manifest import DIGEST, Entry, Manifest, digest_of, files_name

__all__ = ["Folder"]

_MANIFEST = "manifest.json"
_LEFT_BEHIND = 86400.0  # seconds after which what was not finished will not be
_NAME = re.compile(r"step-(\d{12,})")
_PIECE = 1 << 24  # bytes that are read at a time to be checked


class Folder:
    """A folder of checkpoints. Nothing here is collective.

    run: tells this run's unfinished files from those of another. over: with what the names of runs begin that are over, if any are known.
    """

    def __init__(self, path: Path, run: str = "", over: str | None = None) -> None:
        self.path, self._run, self._over = path, run, over

    def steps(self) -> list[int]:
        """The steps of which there are checkpoints, whole or damaged, newest first. Raises OSError."""
        try:
            os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            if any(above.is_symlink() and not above.exists() for above in self.path.absolute().parents):
                raise  # a link to what is not mounted is no reason to begin anew
            return []
        names = [_NAME.fullmatch(entry.name) for entry in self.path.iterdir() if entry.is_dir()]
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def at(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.path / f"step-{step:012d}"

    def writing(self, step: int) -> Path:
        """Where it is as long as it is not whole."""
        return self.path / f".writing-{self.at(step).name}{self._run and '-'}{self._run}"

    def begin(self, step: int) -> None:
        """Make room for a checkpoint; what an earlier attempt has left goes."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.recover()
        shutil.rmtree(self.writing(step), ignore_errors=True)
        for left in self.path.glob(".writing-step-*"):
            run = left.name.removeprefix(".writing-step-").partition("-")[2]
            over = self._over is not None and run.startswith(self._over) and run != self._run
            if over or time.time() - left.stat().st_mtime > _LEFT_BEHIND:  # else another run may be at it
                shutil.rmtree(left, ignore_errors=True)
        self.writing(step).mkdir()

    def recover(self) -> None:
        """Put back what was being replaced when its writer ended."""
        for old in self.path.glob(".replaced-step-*"):
            final = self.path / old.name.removeprefix(".replaced-")
            if final.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(final)

    def write(self, step: int, name: str, data: bytes) -> Entry:
        """Write a file of the checkpoint that is begun, down to the disk."""
        folder = self.writing(step)
        folder.mkdir(parents=True, exist_ok=True)  # another rank has made it; on a network file system that may not show yet
        _write(folder / name, data)
        return Entry(name, len(data), digest_of(data))

    def write_files(self, step: int, part: str, writer: Callable[[Path], list[str]]) -> list[Entry]:
        """Let a part write files of its own into the checkpoint that is begun, down to the disk. `writer` returns their names."""
        folder = self.writing(step) / files_name(part)
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for name in writer(folder):
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
                entries.append(Entry(f"{folder.name}/{name}", *_measure(file)))
        _sync(folder)
        return entries

    def finish(self, manifest: Manifest) -> None:
        """Make the checkpoint that is begun the newest. One of the same step goes."""
        folder, final = self.writing(manifest.step), self.at(manifest.step)
        for entry in manifest.files:
            if not (folder / entry.name).is_file() or (folder / entry.name).stat().st_size != entry.nbytes:
                raise OSError(f"{folder / entry.name} is not what a rank has written: do all ranks see the same folder?")
        _write(folder / _MANIFEST, manifest.to_json().encode())
        _sync(folder)
        if final.exists():
            old = self.path / f".replaced-{final.name}"
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            folder.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            folder.rename(final)
        _sync(self.path)

    def give_up(self, step: int) -> None:
        """Remove what was begun."""
        shutil.rmtree(self.writing(step), ignore_errors=True)

    def keep(self, newest: int, step: int) -> None:
        """Remove all before `step` but the newest. Those after it are of another run, and not this one's to remove."""
        for old in [other for other in self.steps() if other <= step][newest:]:
            shutil.rmtree(self.at(old), ignore_errors=True)

    def clear(self) -> None:
        """Remove all checkpoints, and the folder, if nothing else is in it. Raises OSError."""
        for step in self.steps():
            shutil.rmtree(self.at(step))
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def set_aside(self, steps: Iterable[int]) -> None:
        """Rename these, which are damaged, so that nobody looks at them again."""
        for step in steps:
            try:
                self.at(step).rename(self.path / f"damaged-{self.at(step).name}-{time.time_ns()}")
            except OSError:
                continue  # it stays, and will be passed over again

    def manifest(self, step: int) -> Manifest:
        """Raises DataError for a damaged one, OSError for one that cannot be read now."""
        try:
            manifest = Manifest.from_json((self.at(step) / _MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise DataError(f"its manifest cannot be read ({error})") from None
        if manifest.step != step:
            raise DataError(f"its manifest is that of step {manifest.step}")
        return manifest

    def read(self, step: int, entry: Entry) -> bytes:
        """The bytes of a file, checked. Raises DataError for those that are not what was written, OSError where it cannot be read now."""
        with self._open(step, entry) as file:
            data = file.read()
        _compare(entry, len(data), digest_of(data))
        return data

    def check(self, step: int, entry: Entry) -> None:
        """Raises what `read` does, without holding the file in memory."""
        with self._open(step, entry) as file:
            _compare(entry, *_measure(file))

    def _open(self, step: int, entry: Entry) -> IO[bytes]:
        path = self.at(step) / entry.name
        try:
            there = stat.S_ISREG(path.stat().st_mode)  # is_file() would, from Python 3.14 on, call missing what cannot be read now
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            raise DataError(f"{entry.name} is missing")
        return path.open("rb")


def _compare(entry: Entry, nbytes: int, digest: str) -> None:
    if nbytes != entry.nbytes:
        raise DataError(f"{entry.name} has {nbytes:,} bytes, {entry.nbytes:,} were written")
    if digest != entry.blake2b:
        raise DataError(f"{entry.name} was changed after it was written: its checksum differs")


def _measure(file: IO[bytes]) -> tuple[int, str]:
    """Bytes and checksum of a file from its beginning, piece by piece."""
    digest, nbytes = hashlib.blake2b(digest_size=DIGEST), 0
    while piece := file.read(_PIECE):
        digest.update(piece)
        nbytes += len(piece)
    return nbytes, digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """A folder's entries, down to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

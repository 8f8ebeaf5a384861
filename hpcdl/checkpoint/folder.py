"""The checkpoints of a folder: each a folder of its own, whole or not there, and told from torn ones by the checksums of its manifest.

    FOLDER/step-000000001200/manifest.json      what belongs to it: bytes and BLAKE2b of each file; written last
                             shared-00000-of-00001.safetensors, rank-00000-of-00004.safetensors, …
    FOLDER/.writing-step-000000001300/          not finished yet, or given up
    FOLDER/.replaced-step-000000001200/         while one of the same step takes its place

A checkpoint is written beside, synced, and renamed (rename of folders: POSIX, rename()); so a crash leaves the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DataError

__all__ = ["Entry", "Folder", "Manifest"]

VERSION = 1
_FORMAT = "hpcdl checkpoint"
_MANIFEST = "manifest.json"
_LEFT_BEHIND = 86400.0  # seconds after which what was not finished will not be
_NAME = re.compile(r"step-(\d{12,})")
_FILE = re.compile(r"[a-z]+-\d+-of-\d+\.safetensors")


@dataclass(frozen=True)
class Entry:
    """A file of a checkpoint."""

    name: str
    nbytes: int
    blake2b: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of. ranks: of the world that wrote it; hpcdl: its version."""

    step: int
    ranks: int
    files: tuple[Entry, ...]
    hpcdl: str = __version__

    def to_json(self) -> str:
        """As text, with a checksum of its own."""
        values = {"format": _FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({**values, "blake2b": _checksum(values)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """From text. Raises DataError for what is none, or of a version that is not known here."""
        try:
            values = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise DataError("its manifest is of another program")
            version = values.pop("version")
            if version != VERSION:
                raise DataError(f"it is of version {version}, and this hpcdl reads version {VERSION}")
            if values.pop("blake2b") != _checksum({"format": _FORMAT, "version": version, **values}):
                raise DataError("its manifest was changed after it was written: its checksum differs")
            files = tuple(Entry(**entry) for entry in values.pop("files"))
            strange = [entry.name for entry in files if not (_FILE.fullmatch(entry.name) and isinstance(entry.nbytes, int))]
            if strange:
                raise DataError(f"its manifest names a file that is not a checkpoint's: {strange[0]!r}")
            return cls(files=files, **values)
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"its manifest is damaged ({type(error).__name__}: {error})") from None


class Folder:
    """A folder of checkpoints. Nothing here is collective. run: tells this run's unfinished files from those of another."""

    def __init__(self, path: Path, run: str = "") -> None:
        self.path, self._run = path, run

    def steps(self) -> list[int]:
        """The steps of which there are checkpoints, whole or damaged, newest first. Raises OSError."""
        if not os.path.lexists(self.path):  # a link to what is not mounted is no reason to begin anew
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
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND:  # else another run may be at it
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
        return Entry(name, len(data), _digest(data))

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
        path = self.at(step) / entry.name
        if not path.is_file():
            raise DataError(f"{entry.name} is missing")
        data = path.read_bytes()
        if len(data) != entry.nbytes:
            raise DataError(f"{entry.name} has {len(data):,} bytes, {entry.nbytes:,} were written")
        if _digest(data) != entry.blake2b:
            raise DataError(f"{entry.name} was changed after it was written: its checksum differs")
        return data


def _checksum(values: dict[str, Any]) -> str:
    return _digest(json.dumps(values, sort_keys=True).encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


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

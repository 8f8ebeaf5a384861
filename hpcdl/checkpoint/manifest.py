"""What a checkpoint consists of: its files, with the bytes and the BLAKE2b checksum of each."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from .. import __version__
from ..errors import DataError

__all__ = ["DIGEST", "VERSION", "Entry", "Manifest", "digest_of", "files_name"]

VERSION = 1
DIGEST = 32  # bytes of a checksum
_FORMAT = "hpcdl checkpoint"
_FILES = ".files"
_FILE = re.compile(r"[a-z]+-\d+-of-\d+\.safetensors|[\w%~-][\w%.~-]*\.files/\.?\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """A file of a checkpoint."""

    name: str
    nbytes: int
    blake2b: str

    @property
    def part(self) -> str | None:
        """The part that has written it; None for one of ours."""
        folder, slash, _ = self.name.rpartition("/")
        return unquote(folder.removesuffix(_FILES)) if slash else None


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of. ranks: of the world that wrote it; plan: which it followed; hpcdl: its version."""

    step: int
    ranks: int
    files: tuple[Entry, ...]
    plan: dict[str, Any] = field(default_factory=dict)
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


def files_name(part: str) -> str:
    """The folder, within a checkpoint's, of the files that a part writes."""
    return quote(part, safe="") + _FILES


def digest_of(data: bytes) -> str:
    """Its checksum."""
    return hashlib.blake2b(data, digest_size=DIGEST).hexdigest()


def _checksum(values: dict[str, Any]) -> str:
    return digest_of(json.dumps(values, sort_keys=True).encode())

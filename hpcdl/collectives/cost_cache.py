"""Measured costs kept between runs, in a file that only rank 0 touches.

$HPCDL_CACHE names the folder, else it is `hpcdl` in $XDG_CACHE_HOME; where neither is set, nothing is kept. HPCDL_CACHE=0 turns it off.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .costs import Costs

__all__ = ["OFF", "file_for", "read", "write"]

OFF = ("0", "off", "no", "false")  # what turns a switch off


def file_for(about: Mapping[str, Any], environ: Mapping[str, str]) -> Path | None:
    """The file for costs of what `about` describes; None where nothing is kept."""
    named, common = environ.get("HPCDL_CACHE", ""), environ.get("XDG_CACHE_HOME", "")
    if named.lower() in OFF or not (named or common):
        return None
    folder = Path(named) if named else Path(common) / "hpcdl"
    return folder / f"costs-{blake2b(_text(about).encode(), digest_size=8).hexdigest()}.json"


def read(path: Path | None, about: Mapping[str, Any]) -> Costs | None:
    """The costs that the file holds; None where there is none, or it is damaged, or of something else."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if _text(found["about"]) != _text(about) or not _sound(found["costs"]):
            return None
        return Costs.from_json(json.dumps(found["costs"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path | None, about: Mapping[str, Any], costs: Costs) -> None:
    """Put the file there, whole or not at all: several jobs may do so at once. A folder that cannot be written is no error."""
    if path is None:
        return
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'{{"about": {_text(about)}, "costs": {costs.to_json()}}}\n')
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)


def _text(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)


def _sound(value: Any) -> bool:
    """Whether all numbers are finite and not negative: a file may be damaged and still be JSON."""
    if isinstance(value, dict):
        return all(map(_sound, value.values()))
    if isinstance(value, list):
        return all(map(_sound, value))
    return not isinstance(value, float) or (math.isfinite(value) and value >= 0)

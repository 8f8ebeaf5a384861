"""What ranks tell `hpcdl run`: small JSON files in the run's private folder, one per kind and rank.

Why files: they outlive the rank that wrote them, need no thread on either side, and work when MPI does not.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "all_ended", "folder", "read", "write"]

FOLDER = "HPCDL_RUN_DIR"  # set for the ranks by `hpcdl run`


def folder() -> Path | None:
    """The run's folder, or None where this process was not started by `hpcdl run`."""
    path = os.environ.get(FOLDER)
    return Path(path) if path and os.path.isdir(path) else None


def write(where: Path, kind: str, rank: int, /, **facts: Any) -> None:
    """Write the record of one kind of one rank, at once and once: the first one stays."""
    target = where / f"{kind}.{rank}.json"
    draft = where / f".{kind}.{rank}.{os.getpid()}"
    try:
        draft.write_text(json.dumps({"rank": rank, "when": time.monotonic_ns(), **facts}), encoding="utf-8")
        os.link(draft, target)  # fails where the record exists
    except OSError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def read(where: Path, kind: str) -> list[dict[str, Any]]:
    """All records of one kind, the earliest first."""
    found = []
    for path in where.glob(f"{kind}.*.json"):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda record: (record["when"], record["rank"]))


def all_ended(where: Path, size: int) -> bool:
    """Whether each of `size` ranks has ended, well or not."""
    return len({record["rank"] for kind in ("end", "failure") for record in read(where, kind)}) >= size

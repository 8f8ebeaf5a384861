"""What went wrong in a job, said once: the earliest failure last and in full, the others in one line each."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import REQUEUE, ranks_text
from . import records

__all__ = ["NOT_STARTED", "explain"]

NOT_STARTED = "before any rank had started"
_VARYING = re.compile(r"\brank \d+\b|\b0x[0-9a-f]{6,}\b|\bpid \d+\b")
_CONSEQUENCES = (128 + signal.SIGTERM, 128 + signal.SIGKILL)  # how a launcher ends the ranks that are left


def explain(folder: Path, size: int, launcher_code: int, ended_by: int | None, held: Sequence[bytes]) -> tuple[int, str]:
    """The job's exit code and what to say about it on the error stream.

    `launcher_code` is the launcher's own exit code as `subprocess` gives it, `ended_by` the signal that `hpcdl run` was ended by,
    `held` the launcher's own words, which are shown only where nothing better is known.
    """
    failures = records.read(folder, "failure")
    if ended_by is not None and (failures or launcher_code):
        if all(failure["kind"] == "signal" for failure in failures):
            return 128 + ended_by, f"hpcdl: ended by {signal.Signals(ended_by).name}\n"
    elif not failures:
        code = launcher_code if launcher_code >= 0 else 128 - launcher_code
        return code, _launcher_failed(folder, launcher_code, held) if code else b"".join(held).decode(errors="replace")
    if not failures:
        return 0, ""
    if all((failure["kind"], failure["code"]) == ("exit", REQUEUE) for failure in failures):
        return REQUEUE, f"hpcdl: ended to be started again: it goes on from its last checkpoint (exit code {REQUEUE})\n"
    groups = _merged(failures)
    first, *others = groups
    lines = [f"{ranks_text([f['rank'] for f in group])} of {size}, after that: {group[0]['summary']}\n" for group in others]
    return failures[0]["code"], "".join(lines) + _in_full(first, size)


def _merged(failures: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Failures in groups that say the same, the earliest group first; without those that are only the launcher's clearing up."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    first = failures[0]
    for failure in failures:
        if failure is not first and failure["kind"] == "signal" and failure["code"] in _CONSEQUENCES:
            continue
        key = (_VARYING.sub("#", failure["summary"]), _VARYING.sub("#", failure["text"]))
        groups.setdefault(key, []).append(failure)
    return list(groups.values())


def _in_full(group: list[dict[str, Any]], size: int) -> str:
    failure, who = group[0], f"{ranks_text([f['rank'] for f in group])} of {size}"
    text = failure["text"].rstrip("\n")
    if failure["kind"] == "error":
        return f"{who} raised:\n{text}\n"
    return f"{who}: {failure['summary']}" + (f":\n{text}\n" if text else "\n")


def _launcher_failed(folder: Path, code: int, held: Sequence[bytes]) -> str:
    words = b"".join(held).decode(errors="replace")
    how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    when = "" if any(folder.glob("rank.*.json")) else f" {NOT_STARTED}"
    return f"{words}hpcdl: the MPI launcher {how}{when}\n"

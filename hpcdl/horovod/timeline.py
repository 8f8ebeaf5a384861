"""A record of what happened when, for chrome://tracing and Perfetto. Rank 0 of the job writes it."""

from __future__ import annotations

import json
import os
import time
from typing import TextIO

from .wanted import Wanted

__all__ = ["Timeline"]


class Timeline:
    """One row per name: how long it was negotiated, and how long it was done. Off until `start`. Under the lock of the progress loop."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._begun = 0.0
        self._rows: dict[str, int] = {}
        self._open: dict[str, str] = {}

    def start(self, path: str) -> None:
        """Write to `path` from now on; what was there is replaced."""
        self.stop()
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - it stays open
        self._file.write("[\n")
        self._begun = time.perf_counter()
        self._rows, self._open = {}, {}

    def stop(self) -> None:
        """End the record."""
        if self._file is not None:
            self._file.write(json.dumps({"name": "end", "ph": "i", "s": "g", "pid": 0, "tid": 0, "ts": self._now()}) + "\n]\n")
            self._file.close()
            self._file = None

    def begin(self, wanted: Wanted) -> None:
        """This rank is ready."""
        if self._file is not None:
            self._enter(wanted.name, f"NEGOTIATE_{_upper(wanted)}")

    def ordered(self, wanted: Wanted) -> None:
        """All ranks are."""
        if self._file is not None:
            self._leave(wanted.name)
            self._enter(wanted.name, _upper(wanted))

    def end(self, wanted: Wanted) -> None:
        """It is done."""
        if self._file is not None:
            self._leave(wanted.name)

    def _enter(self, name: str, what: str) -> None:
        assert self._file is not None
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = len(self._rows) + 1
            self._write({"name": "thread_name", "ph": "M", "pid": os.getpid(), "tid": row, "args": {"name": name}})
        self._open[name] = what
        self._write({"name": what, "ph": "B", "pid": os.getpid(), "tid": row, "ts": self._now()})

    def _leave(self, name: str) -> None:
        what = self._open.pop(name, None)
        if what is not None:
            self._write({"name": what, "ph": "E", "pid": os.getpid(), "tid": self._rows[name], "ts": self._now()})

    def _write(self, event: dict[str, object]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(event) + ",\n")

    def _now(self) -> float:
        return round((time.perf_counter() - self._begun) * 1e6, 1)


def _upper(wanted: Wanted) -> str:
    return wanted.kind.upper().replace(" ", "_")

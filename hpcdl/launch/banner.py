"""Pass a launcher's output on, and hold back what the launcher itself says about a failed job.

Open MPI prints blocks between two rules of dashes when a rank ends badly, MPICH a box of equal signs, on the output stream even;
`hpcdl run` says the same better, and last. Everything else passes at once, half lines (progress bars) included.
"""

from __future__ import annotations

import os
import re
import threading
from typing import IO

__all__ = ["Banner"]

_RULE = re.compile(rb"-{60,}\s*$")
_LONGEST = 40  # lines
_NEVER = re.compile(rb"(?!)")


class Banner(threading.Thread):
    """Copies `source` to the file descriptor `sink` until its end; `held` are the launcher's own words.

    `block` is a regular expression over the first line after a rule of dashes, `line` one over single lines of the launcher.
    """

    def __init__(self, source: IO[bytes], sink: int, block: str = "", line: str = "") -> None:
        super().__init__(daemon=True, name="hpcdl-banner")
        self.held: list[bytes] = []
        self._source, self._sink = source, sink
        self._first = re.compile(block.encode()) if block else _NEVER
        self._single = re.compile(line.encode()) if line else _NEVER
        self._block: list[bytes] = []
        self._mid_line = False
        self.start()

    def run(self) -> None:
        rest = b""
        while chunk := os.read(self._source.fileno(), 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._line(line + b"\n")
            if rest and not self._block and (self._mid_line or rest[:1] not in b"-="):
                self._write(rest)
                self._mid_line, rest = True, b""
        self._write(b"".join(self._block) + rest)

    def _line(self, line: bytes) -> None:
        if self._mid_line:
            self._mid_line = False
            self._write(line)
        elif self._block:
            self._in_block(line)
        elif self._single.match(line):
            self.held.append(line)
        elif self._first is not _NEVER and _RULE.match(line):
            self._block = [line]
        else:
            self._write(line)

    def _in_block(self, line: bytes) -> None:
        if len(self._block) == 1 and not self._first.match(line):  # a user's own rule of dashes
            first, self._block = self._block[0], []
            self._write(first)
            self._line(line)
            return
        self._block.append(line)
        if _RULE.match(line):
            self.held += self._block
            self._block = []
        elif len(self._block) > _LONGEST:
            self._write(b"".join(self._block))
            self._block = []

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._sink, data) :]
            except OSError:
                return  # the reader is gone

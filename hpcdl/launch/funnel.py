"""A way for tagged lines from the ranks to `hpcdl run`, past the launcher.

Why: launchers copy output in chunks that end anywhere, so lines of several ranks would be mixed. What is written to a pipe in at most
PIPE_BUF bytes arrives in one piece.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

from .banner import Banner

__all__ = ["NAMES", "Funnel", "put"]

NAMES = {1: "out.fifo", 2: "err.fifo"}  # by file descriptor
_ATOMIC = min(getattr(select, "PIPE_BUF", 512), 4096)


class Funnel:
    """The reading end for one stream: copies to the file descriptor `stream` of this process until `close`."""

    def __init__(self, folder: Path, stream: int) -> None:
        path = folder / NAMES[stream]
        os.mkfifo(path, 0o600)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._writer = os.open(path, os.O_WRONLY)  # no end of the stream before `close`
        os.set_blocking(reader, True)
        self._copier = Banner(os.fdopen(reader, "rb", buffering=0), stream)

    def close(self) -> None:
        """Copy what is left, and end."""
        os.close(self._writer)
        self._copier.join(timeout=2.0)


def put(target: int, lines: list[bytes]) -> None:
    """Write whole lines to a pipe, as many at once as stay in one piece; a longer line goes in several. Raises OSError."""
    batch = b""
    for line in [*lines, b""]:
        if batch and (not line or len(batch) + len(line) > _ATOMIC):
            while batch:
                batch = batch[os.write(target, batch) :]
        batch += line

"""A run as one JSON line: what, when, with which versions, on what machine; and as a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .. import __version__
from ..launch import env
from ..launch.machine import cores
from ..world import World

__all__ = ["append", "host", "line", "place", "show", "summary", "versions"]

_LOAD = round(os.getloadavg()[0], 1)  # of the last minute: who else was busy before we began


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Smallest, median and largest of the repetitions, in seconds to four digits, and how many there were."""
    found = {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}
    return {**{name: float(f"{value:.4g}") for name, value in found.items()}, "repetitions": len(seconds)}


def line(benchmark: str, results: Iterable[Mapping[str, Any]], mpi: str | None = None, **facts: Any) -> dict[str, Any]:
    """One run: what, when, with which versions, where. Says nothing of the machine that would name it."""
    date = datetime.now(timezone.utc).date().isoformat()
    return {"benchmark": benchmark, "date": date, "versions": versions(mpi), "host": host(), **facts, "results": list(results)}


def append(path: Path | None, record: Mapping[str, Any]) -> None:
    """Add `record` to the file as one line; nothing without a file."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    plain = env.place() is not None or not sys.stdout.isatty()  # a rank's terminal is the launcher's, and says nothing of the user's
    console = Console(width=160, force_terminal=False, no_color=True) if plain else Console()
    console.print(table)


def versions(mpi: str | None = None, more: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of this package and of what a measurement depends on; `mpi`: the MPI library's, as it is called."""
    found = {"python": platform.python_version(), "hpcdl": __version__}
    for package in ("numpy", "ml_dtypes", "numkong", *(["mpi4py"] if mpi else []), *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "mpi": mpi} if mpi else found


def host() -> dict[str, Any]:
    """The machine by its processor, cores and load, never by name."""
    return {"cpu": _cpu(), "cores": cores(), "system": platform.system(), "load": _LOAD}


def place(world: World) -> str:
    """How many ranks, on how many nodes, in words."""
    return f"{world.size} ranks on {world.nodes} node{'' if world.nodes == 1 else 's'}"


def _cpu() -> str:
    """The processor's model, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return models[0] if models else platform.processor() or os.uname().machine

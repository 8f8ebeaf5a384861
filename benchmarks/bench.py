"""What all benchmarks share: options, versions and host facts, interleaved timing, tables, JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn, TypeVar

from rich.console import Console
from rich.table import Table

from hpcdl import __version__
from hpcdl.launch.env import place
from hpcdl.launch.machine import cores

__all__ = ["Parser", "append", "count", "interleave", "line", "one_of", "show", "size", "size_name", "summary"]

Key = TypeVar("Key", bound=Hashable)
_LOAD = round(os.getloadavg()[0], 1)  # of the last minute: who else was busy before we began
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Parser(argparse.ArgumentParser):
    """Options that every benchmark has; a bad one is told once, by rank 0, and ends every rank with exit code 2."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        self.add_argument("--json", type=_file, metavar="FILE", help="append the results there, one JSON line a run")

    def error(self, message: str) -> NoReturn:
        """Print `message` on rank 0 and exit."""
        here = place()
        self.exit(2, f"{self.prog}: error: {message}\n" if here is None or here.rank == 0 else None)


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write to {text}; give a file name in a folder that exists")
    return path


def size(text: str) -> int:
    """Bytes of a size as people write it, a multiple of 4.

    >>> size("64KiB"), size("1M"), size("1024")
    (65536, 1048576, 1024)
    """
    match = re.fullmatch(r"(\d+)\s*([kmg]?)(i?b)?", text.strip(), re.IGNORECASE)
    nbytes = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if nbytes < 4 or nbytes % 4:
        raise argparse.ArgumentTypeError(f"{text!r}: give a multiple of 4 bytes, as in 1024, 64KiB or 1MiB")
    return nbytes


def size_name(nbytes: int) -> str:
    """A size as people read it.

    >>> size_name(65536), size_name(1000)
    ('64 KiB', '1000 B')
    """
    for unit in ("B", "KiB", "MiB"):
        if nbytes % 1024 or nbytes == 0:
            return f"{nbytes} {unit}"
        nbytes //= 1024
    return f"{nbytes} GiB"


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least 1")
    return int(text)


def one_of(kind: str, known: Collection[str]) -> Callable[[str], str]:
    """A type for argparse: a name (perhaps with parameters, ``name:key=value``) that is `known`."""

    def check(text: str) -> str:
        if text.partition(":")[0] not in known:
            raise argparse.ArgumentTypeError(f"unknown {kind} {text!r}; known: {', '.join(known)}")
        return text

    return check


def interleave(actions: Mapping[Key, Callable[[], None]], repeat: int, calls: Mapping[Key, int] | None = None) -> dict[Key, list[float]]:
    """Seconds per call of each action, `repeat` times, in turn: noise of the machine meets all alike.

    calls: how many calls to make in a row, where one is too short to time.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in actions}
    for _ in range(repeat):
        for key, action in actions.items():
            times = calls[key] if calls else 1
            begin = perf_counter()
            for _ in range(times):
                action()
            seconds[key].append((perf_counter() - begin) / times)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Smallest, median and largest of the repetitions, in seconds to four digits, and how many there were."""
    found = {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}
    return {**{name: float(f"{value:.4g}") for name, value in found.items()}, "repetitions": len(seconds)}


def line(benchmark: str, results: Iterable[Mapping[str, Any]], mpi: str | None = None, **facts: Any) -> dict[str, Any]:
    """One run as a JSON line: what, when, with which versions, where. Says nothing of the machine that would name it."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": _versions(mpi),
        "host": {"cpu": _cpu(), "cores": cores(), "system": platform.system(), "load": _LOAD},
        **facts,
        "results": list(results),
    }


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
    plain = place() is not None or not sys.stdout.isatty()  # a rank's terminal is the launcher's, and says nothing of the user's
    console = Console(width=160, force_terminal=False, no_color=True) if plain else Console()
    console.print(table)


def _versions(mpi: str | None) -> dict[str, str]:
    found = {"python": platform.python_version(), "hpcdl": __version__}
    for package in ("numpy", "ml_dtypes", "numkong", *(["mpi4py"] if mpi else [])):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "mpi": mpi} if mpi else found


def _cpu() -> str:
    """The processor's model, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return models[0] if models else platform.processor() or os.uname().machine

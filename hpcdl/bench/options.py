"""Options as every benchmark reads them: sizes, rates, names; a bad one is told once, whatever the number of ranks."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from ..launch.env import place

__all__ = ["Parser", "count", "file", "link_rate", "one_of", "size", "size_name"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}

_HEAD_START = 2.0  # seconds for rank 0 to speak: the launcher ends all ranks once one has failed, and drops what they were about to say


class Parser(argparse.ArgumentParser):
    """Options of a benchmark; a bad one is told once, by rank 0, and ends every rank with exit code 2."""

    def __init__(self, description: str | None = None, **settings: object) -> None:
        settings = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **settings}
        super().__init__(description=description, **settings)  # type: ignore[arg-type]
        self.add_argument("--json", type=file, metavar="FILE", help="append the results there, one JSON line a run")

    def error(self, message: str) -> NoReturn:
        """Print `message` on rank 0 and exit."""
        here = place()
        if here is not None and here.rank:
            time.sleep(_HEAD_START)
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {message}\n")


def file(text: str) -> Path:
    """A file that can be written, as far as one can tell before."""
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


def link_rate(text: str) -> float:
    """Bytes per second of a link whose rate is given in bits per second, as networks are sold.

    >>> link_rate("200mbit"), link_rate("100Gbit/s")
    (25000000.0, 12500000000.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)bit(?:/s|ps)?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: give bits per second, as in 200mbit, 25gbit or 1e9 written as 1gbit")
    return float(match[1]) * _DECIMAL[match[2].lower()] / 8


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

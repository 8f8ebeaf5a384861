"""Fenced blocks of a Markdown file. "python star.py" after the fence names the file that a block is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from harness.environment import for_children

import hpcdl

__all__ = ["ROOT", "Block", "blocks", "commands", "environment", "write_files"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+)?[ ]*(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    name: str
    text: str


def blocks(document: str) -> list[Block]:
    """All fenced blocks of `document`, a path from the root of the checkout."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [Block(*(part or "" for part in match.groups())) for match in _FENCE.finditer(text)]


def write_files(document: str, folder: Path) -> list[str]:
    """Write each named Python block of `document` into `folder`; gives the names."""
    files = [block for block in blocks(document) if block.language == "python"]
    assert all(block.name.endswith(".py") for block in files), f"{document}: each Python block names its file"
    for block in files:
        (folder / block.name).write_text(block.text, encoding="utf-8")
    return [block.name for block in files]


def commands(document: str) -> list[str]:
    """The lines of all `sh` blocks, without comments."""
    lines = [line.split("  #")[0].strip() for block in blocks(document) if block.language == "sh" for line in block.text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def environment(*folders: Path) -> dict[str, str]:
    """For a child that is to find `folders`, and the same hpcdl as this process."""
    path = [*map(str, folders), str(Path(hpcdl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**for_children(), "PYTHONPATH": os.pathsep.join(filter(None, path))}

"""Copies of jobs/ for users to change: the templates' lines between the marks, and the programs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness.programs import JOBS


def copied(folder: Path) -> Path:
    """The templates and the programs that need no framework, as somebody copies them by hand."""
    for path in [*JOBS.glob("*.sbatch"), JOBS / "train_numpy.py"]:
        shutil.copy(path, folder)
    return folder


def changed(path: Path, name: str, **lines: str) -> Path:
    """A copy under another name, whose assignments of these names, between the marks, are others."""
    text = path.read_text(encoding="utf-8")
    begin, end = text.index("# >>> edit"), text.index("# <<< edit")
    region = text[begin:end]
    for key, value in lines.items():
        region, found = re.subn(rf"^{key}=.*$", lambda _, line=f"{key}={value}": line, region, flags=re.MULTILINE)
        assert found == 1, f"{path.name} sets {key} {found} times"
    copy = path.with_name(name)
    copy.write_text(text[:begin] + region + text[end:], encoding="utf-8")
    return copy


def replaced(path: Path, name: str, *pairs: tuple[str, str]) -> Path:
    """A copy of a program under another name, with these texts replaced, each of which is there once."""
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path.name}"
        text = text.replace(old, new)
    copy = path.with_name(name)
    copy.write_text(text, encoding="utf-8")
    return copy

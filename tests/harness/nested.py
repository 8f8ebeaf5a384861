"""A small suite of its own, run in a child process: how the harness's tests look at the harness."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from .environment import for_children
from .job import command

TESTS = Path(__file__).parents[1]


@dataclass
class Suite:
    """Test files in a folder."""

    folder: Path

    def run(self, *args: str, by_hand: bool = False, **env: str) -> Run:
        """Run pytest on them, alone or (`by_hand`) under the launcher on four ranks."""
        path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        pytest_ = [sys.executable, "-m", "pytest", "-p", "harness.plugin", "-p", "harness.bare", "--import-mode=importlib", "-ra", *args]
        child = subprocess.run(
            command(pytest_) if by_hand else pytest_,
            cwd=self.folder,
            env={**for_children(), "PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1", **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Run(child.returncode, child.stdout, child.stderr)


@dataclass
class Run:
    """What a run of a suite gave."""

    status: int
    out: str
    err: str

    def has(self, *texts: str) -> None:
        """Each text stands in the report or in the stderr."""
        whole = self.out + self.err
        for text in texts:
            assert text in whole, f"{text!r} is not in:\n{whole}"


def make_suite(folder: Path, source: str) -> Suite:
    """A suite of one file in the empty folder `folder`."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text("import os, signal, time\nimport pytest\n\n" + textwrap.dedent(source))
    return Suite(folder)

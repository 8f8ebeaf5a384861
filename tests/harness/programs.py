"""Programs run as a user runs them: by this Python, with the package under test, outside of any launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hpcdl

from .environment import for_children, time_limit

_ROOT = Path(__file__).parents[2]
PROGRAMS, JOBS = _ROOT / "benchmarks", _ROOT / "jobs"
CHECKOUT = str(Path(hpcdl.__file__).parents[1])


def run(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run this command line; the finished process. PATH_FIRST: a folder in which Python looks before all others."""
    return subprocess.run(
        [*map(str, words)], check=False, capture_output=True, text=True, timeout=time_limit() - 10, env=_settings(environ)
    )


def started(*words: object, **environ: str) -> subprocess.Popen[str]:
    """The same, under way: its output can be read line by line."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*map(str, words)], text=True, bufsize=1, env=_settings(environ), **streams)


def _settings(environ: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [environ.pop("PATH_FIRST", ""), CHECKOUT, os.environ.get("PYTHONPATH")]))
    return {**for_children(), "PYTHONPATH": path, "COLUMNS": "200", **environ}


def python(*words: object) -> subprocess.CompletedProcess[str]:
    """The same for this Python."""
    return run(sys.executable, *words)

"""Real jobs for the tests of the launcher: `job(script, ranks, …)` runs one, `Running` is one that can be signalled."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HANG = 60  # seconds: a guard against hangs only

# A rank of any launcher, without importing anything of the package.
PREAMBLE = """
import os, sys, time
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")))
"""


def environment(**more: str) -> dict[str, str]:
    """The environment for a child that is to find this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int], within: float = 15.0) -> bool:
    """Whether all `pids` have ended within some seconds."""
    deadline = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


class Running:
    """A job that runs; its ranks print ``pid N`` when they are ready."""

    def __init__(self, command: list[str], cwd: Path, ranks: int, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pids: list[int] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.pids += [int(pid) for pid in re.findall(r"pid (\d+)", line)]
            if len(self.pids) == ranks:
                break
        self.launcher = self._launcher()

    def _launcher(self) -> int:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int((folder / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    return int(folder.name)
            except (OSError, ValueError):
                continue
        return -1

    def send(self, number: int) -> None:
        """Send a signal to `hpcdl run`, and to nobody else."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit code and the rest of the output."""
        out, err = self.process.communicate(timeout=HANG)
        return self.process.returncode, out, err


@pytest.fixture
def job(tmp_path: Path, require: Callable[..., object]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`job(source, n, *args, flags=…)`: `hpcdl run` of a script to its end."""
    require("mpi")

    def run(source: str, ranks: int, *args: str, flags: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(PREAMBLE + textwrap.dedent(source), encoding="utf-8")
        command = [sys.executable, "-m", "hpcdl.cli", "run", "-n", str(ranks), *flags, "script.py", *args]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def running(tmp_path: Path, require: Callable[..., object]) -> Iterator[Callable[..., Running]]:
    """`running(source, n)`: a job in the background, ready; what is left of it at the end is killed."""
    require("mpi")
    jobs: list[Running] = []

    def start(source: str, ranks: int) -> Running:
        ready = "\nprint('pid', os.getpid(), flush=True)\n"
        (tmp_path / "script.py").write_text(PREAMBLE + textwrap.dedent(source).replace("READY", ready), encoding="utf-8")
        command = [sys.executable, "-m", "hpcdl.cli", "run", "-n", str(ranks), "script.py"]
        jobs.append(Running(command, tmp_path, ranks, environment()))
        return jobs[-1]

    yield start
    for job in jobs:
        for pid in [*job.pids, job.process.pid]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        job.process.communicate()

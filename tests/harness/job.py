"""The one MPI job of an outer run: starts it, follows its journal, says why a test has no result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from hpcdl.launch.mpiexec import launcher, library

from .environment import WORLD, for_children, time_limit
from .watchdog import GRACE

TAIL = 60  # lines of the job's output shown after a crash


class NoResult(Exception):
    """The job ended without a result for a test; the text says why."""


def command(argv: list[str], ranks: int = WORLD) -> list[str]:
    """The command line that starts `argv` on so many ranks with the launcher of this Python's MPI library. Raises LaunchError."""
    return [*launcher(library()).command(ranks), *argv]


class Job:
    """Runs the [mpi] items `items` of this session on WORLD ranks."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hpcdl-job-"))
        self.waiting = {item.nodeid for item in items}
        self._journal, self._log = self.folder / "journal", self.folder / "output"
        self._journal.touch()
        self._read = self._journal.open(encoding="utf-8")
        self._partial = ""
        self._done: dict[str, list[dict[str, Any]]] = {}
        self._running = ""
        self._died: list[str] = []
        self._told = False
        self._heard = time.monotonic()
        order = self.folder / "job.json"
        order.write_text(
            json.dumps(
                {
                    "args": _arguments(config, items),
                    "ids": [item.nodeid for item in items],
                    "journal": str(self._journal),
                    "path": sys.path,
                    "outer": os.getpid(),
                }
            ),
            encoding="utf-8",
        )
        here = str(Path(__file__).parents[1])
        env = {**for_children(), "HPCDL_TEST_JOB": str(order)}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, env.get("PYTHONPATH")]))
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command([sys.executable, "-m", "harness.inside"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=config.invocation_params.dir,
                start_new_session=True,
            )

    def reports(self, nodeid: str) -> list[dict[str, Any]]:
        """Wait for the reports on `nodeid`, as plain data. Raises NoResult."""
        self.waiting.discard(nodeid)
        while nodeid not in self._done:
            ended = self._process.poll() is not None  # asked before the last reading
            self._follow()
            if nodeid in self._done:
                break
            if ended:
                raise NoResult(self._why(nodeid))
            if time.monotonic() - self._heard > time_limit() + 2 * GRACE + 30:
                self._died.append("the job was silent for too long")
                self._end()
            time.sleep(0.02)
        return self._done[nodeid]

    def farewell(self) -> str:
        """After the last result: wait for the job's end. The complaint if it ended badly, "" if well."""
        deadline = time.monotonic() + time_limit()
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._process.poll() is None:
            self._end()
            return f"the ranks did not end {time_limit():g} s after their last test\n{self._tail()}"
        if self._process.returncode and not self._told:
            return f"the ranks ended with status {self._process.returncode} after their last test\n{self._tail()}"
        return ""

    def stop(self) -> None:
        """End the job and remove its files."""
        self._end()
        self._read.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _follow(self) -> None:
        """Read what the ranks have written since."""
        text = self._partial + self._read.read()
        *lines, self._partial = text.split("\n")
        for line in lines:
            self._heard = time.monotonic()
            event = json.loads(line)
            if event["event"] == "start":
                self._running = event["id"]
            elif event["event"] == "done":
                self._done[event["id"]] = event["reports"]
                self._running = ""
            elif event["event"] in ("died", "error"):
                self._died.append(event["text"])

    def _why(self, nodeid: str) -> str:
        where = self._running or "the start, before any test" if not self._done else self._running or "between two tests"
        if self._told and nodeid != self._running:
            return f"not run: the ranks died in {where}"
        self._told = True
        status = self._process.returncode
        head = f"the ranks died in {where}; the job ended with status {status}"
        return "\n".join([head, *self._died, "last lines of its output:", self._tail()])

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])

    def _end(self) -> None:
        """Terminate the launcher, which ends the ranks; then whatever is left of its session."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                continue


def _arguments(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """pytest's arguments for the ranks: the items' files, and the options that shape a result."""
    option = config.option
    args = ["-p", "no:cacheprovider", f"--rootdir={config.rootpath}", f"--import-mode={option.importmode}", f"--tb={option.tbstyle}"]
    args += ["-c", str(config.inipath)] if config.inipath else []
    args += ["-l"] if option.showlocals else []
    args += [part for name in option.plugins or [] for part in ("-p", name)]
    args += [part for setting in option.override_ini or [] for part in ("-o", setting)]
    return args + sorted({str(item.path) for item in items})

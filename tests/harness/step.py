"""Inside the ranks: every rank goes through the same tests in step, and all agree on how each one ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO

import pytest
from _pytest.runner import runtestprotocol
from _pytest.terminal import TerminalReporter

from .environment import launched_size, time_limit
from .in_mpi import InMPI
from .journal import Journal, from_plain, to_plain
from .lane import Lane
from .merge import merge
from .outcome import Elsewhere
from .watchdog import RankWatchdog


class InStep:
    """The pytest plugin of one rank. Tests of `ranks` run on all ranks, others on rank 0; only rank 0 prints."""

    def __init__(self, config: pytest.Config, stderr: TextIO) -> None:
        self.config = config
        self.lane = lane = Lane()
        started = launched_size()
        if started not in (1, lane.size):
            pytest.exit(f"{started} ranks started, but the MPI library sees {lane.size}: it and the launcher don't belong together", 4)
        job = os.environ.get("HPCDL_TEST_JOB")
        self.job: dict[str, Any] = json.loads(Path(job).read_text(encoding="utf-8")) if job else {}
        self.journal = Journal(Path(self.job["journal"]) if job else None)
        self.folder = Path(lane.exchange(tempfile.mkdtemp(prefix="hpcdl-tests-") if lane.rank == 0 else "")[0])
        self.stderr = stderr
        watchdog = RankWatchdog(lane, time_limit(), self.folder, stderr)
        watchdog.on_bark = lambda text: self.journal.add("died", text=text)
        self.in_mpi = InMPI(lane, watchdog)
        if lane.rank != 0:
            _silence(config)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if "ids" in self.job:
            wanted = set(self.job["ids"])
            dropped = [item for item in items if item.nodeid not in wanted]
            items[:] = [item for item in items if item.nodeid in wanted]
            self.config.hook.pytest_deselected(items=dropped)
        for item in items:
            if item.get_closest_marker("outer"):
                item.add_marker(pytest.mark.skip(reason="starts jobs itself: runs only outside of the ranks"))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        ids = [item.nodeid for item in session.items]
        digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
        notes = self.lane.exchange((digest, len(ids), session.testsfailed, ids))
        self._next = dict(zip(session.items, [*self._following(session.items)], strict=True))
        if len({note[:3] for note in notes}) > 1:
            first = set(notes[0][3])
            differ = [sorted(first ^ set(note[3]))[:3] for note in notes]
            lines = [f"rank {rank}: {note[1]} tests, {note[2]} errors, {differ[rank]}" for rank, note in enumerate(notes)]
            text = "the ranks collected different tests (what differs from rank 0):\n" + "\n".join(lines)
            self.journal.add("error", text=text)
            pytest.exit(text, 4)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        own = self.lane.rank == 0
        if own:
            self.journal.add("start", id=item.nodeid)
        with self.in_mpi.watchdog.watch(item.nodeid):
            reports = runtestprotocol(item, log=False, nextitem=self._next[item]) if self._mine(item) else []
            plain = [to_plain(self.config, report) for report in reports]
            while True:  # a rank that is still in the test sees that we are at its end, and comes here too
                notes = self.lane.exchange(("end", plain))
                if all(where == "end" for where, _ in notes):
                    break
        merged = merge([[from_plain(self.config, data) for data in theirs] for _, theirs in notes])
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in merged:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if own:
            self.journal.add("done", id=item.nodeid, reports=[to_plain(self.config, report) for report in merged])
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        report.__dict__["echo"] = call.excinfo is not None and isinstance(call.excinfo.value, Elsewhere)  # for merge
        return report

    def pytest_internalerror(self, excrepr: object) -> None:
        """An error of pytest or of a plugin on one rank: the ranks are out of step, so the job ends."""
        text = f"rank {self.lane.rank} of {self.lane.size}: internal error\n{excrepr}\n"
        self.journal.add("error", text=text)
        self.stderr.write(text)
        self.stderr.flush()
        self.lane.abort(3)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self.lane.rank == 0:
            self.journal.add("finish", status=int(exitstatus))

    def pytest_unconfigure(self) -> None:
        """Nobody leaves before rank 0 has printed its report: a launcher may end all ranks when the first one fails."""
        with self.in_mpi.watchdog.watch("the end of the run"):
            self.lane.exchange("bye")
        if self.lane.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def pytest_report_header(self) -> str:
        return f"inside {self.lane.size} ranks"

    def _mine(self, item: pytest.Item) -> bool:
        """Whether this rank runs the test."""
        return self.lane.rank == 0 or item.get_closest_marker("mpi") is not None

    def _following(self, items: list[pytest.Item]) -> list[pytest.Item | None]:
        """For each item, the next one that this rank runs: pytest tears fixtures down by it."""
        following: list[pytest.Item | None] = []
        after: pytest.Item | None = None
        for item in reversed(items):
            following.append(after)
            after = item if self._mine(item) else after
        return following[::-1]


def _silence(config: pytest.Config) -> None:
    """This rank prints no report and writes neither cache nor report file: rank 0 does."""
    manager = config.pluginmanager
    manager.unregister(name="terminalreporter")
    manager.register(TerminalReporter(config, Path(os.devnull).open("w", encoding="utf-8")), "terminalreporter")  # noqa: SIM115
    if hasattr(config.option, "xmlpath"):
        config.option.xmlpath = None
    cache = getattr(config, "cache", None)
    if cache is not None:
        cache.set = lambda key, value: None

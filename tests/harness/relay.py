"""The outer process: runs everything but the [mpi] items itself; those are answered by one MPI job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

import pytest

from .environment import time_limit
from .job import Job, NoResult
from .journal import from_plain
from .parts import require
from .watchdog import Alarm


class Relay:
    """The pytest plugin of a run outside of any launcher. [mpi] items come last, so that nothing runs beside the job."""

    def __init__(self, config: pytest.Config, stderr: TextIO) -> None:
        self.config = config
        self.alarm = Alarm(time_limit(), stderr)
        self.job: Job | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=_is_mpi)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        with self.alarm.watch(f"setup of {item.nodeid}"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        with self.alarm.watch(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        with self.alarm.watch(f"teardown of {item.nodeid}"):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _is_mpi(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._answer(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        if self.job is not None:
            self.job.stop()
            self.job = None

    def _answer(self, item: pytest.Item) -> list[pytest.TestReport]:
        """The reports on an [mpi] item."""
        try:
            require("mpi")
            if self.job is None:
                self.job = Job(self.config, [other for other in item.session.items if _is_mpi(other)])
            reports = [from_plain(self.config, data) for data in self.job.reports(item.nodeid)]
        except pytest.skip.Exception as skipped:
            return [_report(item, "setup", "skipped", (str(item.path), item.location[1] or 0, f"Skipped: {skipped.msg}"))]
        except (pytest.fail.Exception, NoResult) as failed:
            return [_report(item, "call", "failed", str(failed))]
        if not self.job.waiting:
            complaint = self.job.farewell()
            if complaint:
                reports.append(_report(item, "teardown", "failed", complaint))
        return reports


def _is_mpi(item: pytest.Item) -> bool:
    return item.get_closest_marker("mpi") is not None


def _report(item: pytest.Item, when: str, outcome: str, longrepr: object) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {item.name: 1}, outcome, longrepr, when)  # type: ignore[arg-type]

"""The JSON lines in which the ranks tell the outer process how far they are. Written line by line, so a crash loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


class Journal:
    """Appends events: start, done (with reports), died (with stacks), error, finish. Without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def add(self, event: str, **what: Any) -> None:
        """Append one event and flush it."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event, **what}, default=str) + "\n")


def to_plain(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    """A report as plain data."""
    return dict(config.hook.pytest_report_to_serializable(config=config, report=report))


def from_plain(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    """The report back again. JSON has no tuples; pytest wants one for the place of a skip."""
    if isinstance(data.get("longrepr"), list):
        data = {**data, "longrepr": tuple(data["longrepr"])}
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=data)
    return report

"""Joins the reports of all ranks on one test into the reports that the run shows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

Reports = Sequence[pytest.TestReport]


def merge(by_rank: Sequence[Reports]) -> list[pytest.TestReport]:
    """One report per phase: rank 0's, unless another rank failed where rank 0 did not; then that rank's, marked as such."""
    merged: list[pytest.TestReport] = []
    for when in ("setup", "call", "teardown"):
        phase = {rank: report for rank, reports in enumerate(by_rank) for report in reports if report.when == when}
        if not phase or (when == "call" and merged and not merged[0].passed):
            continue
        failed = sorted((rank for rank, report in phase.items() if report.failed), key=lambda rank: getattr(phase[rank], "echo", False))
        rank = failed[0] if failed else min(phase)
        report = phase[rank]
        if failed and rank != 0:
            others = [f"rank {other}: {_line(theirs)}" for other, theirs in phase.items() if other != rank]
            report.sections.insert(0, (f"this is rank {rank} of {len(by_rank)}", "\n".join(others)))
        if failed:
            theirs = [(other, section) for other in phase if other != rank for section in phase[other].sections]
            report.sections.extend((f"rank {other}: {title}", text) for other, (title, text) in theirs)
        merged.append(report)
    return merged


def _line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    message = str(crash.message).splitlines()[0] if crash is not None and crash.message else ""
    return f"{report.outcome} {message}".strip()

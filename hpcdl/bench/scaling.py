"""A scaling study: what runs on 1, 2, 4, … nodes have written, as speed-up and efficiency. Measures nothing itself.

A run is a JSON line, of `hpcdl bench train --json` or of any program: ``{"nodes": 2, "ranks": 4, "per_second": 1234.5}``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from . import plot
from .record import show

__all__ = ["Run", "add_arguments", "main", "runs", "table"]


class Run(NamedTuple):
    """One run: how much it did in a second, on so many ranks of so many nodes; `what` was done."""

    nodes: int
    ranks: int
    what: str
    per_second: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hpcdl bench scaling`."""
    parser.add_argument("file", type=Path, help="of JSON lines, one for each run")


def main(args: argparse.Namespace) -> int:
    """Print the table, and draw it where that is asked for. Raises DataError for a file without runs."""
    try:
        lines = args.file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{args.file}: {error.strerror}; no job has written its results there") from None
    found = sorted(run for number, line in enumerate(lines, 1) if line.strip() for run in runs(line, f"{args.file}:{number}"))
    if not found:
        raise DataError(f"{args.file} holds no runs: the jobs have failed; their logs say why")
    show(f"{args.file}: speed-up over the fewest ranks", ["nodes, ranks", "a second", "speed-up", "ideal", "efficiency"], table(found))
    if plot.possible(args.plot):
        series = {f"{what or 'measured'}": [(run.ranks, run.per_second) for run in found if run.what == what] for what in _kinds(found)}
        first = found[0]
        ideal = [(run.ranks, first.per_second * run.ranks / first.ranks) for run in found if run.what == first.what]
        plot.curves(args.plot, str(args.file), series, {"ideal": ideal}, unit="a second", across="ranks")
    return 0


def runs(line: str, where: str) -> list[Run]:
    """The runs of one line: one, or with `hpcdl bench train` one for each codec. Raises DataError.

    >>> runs('{"nodes": 2, "ranks": 4, "per_second": 12.5}', "results.jsonl:1")
    [Run(nodes=2, ranks=4, what='', per_second=12.5)]
    """
    try:
        record = json.loads(line)
        nodes, ranks = int(record["nodes"]), int(record["ranks"])
        if "results" not in record:
            found = [Run(nodes, ranks, str(record.get("what", "")), float(record["per_second"]))]
        else:
            found = [_trained(nodes, result) for result in record["results"] if result["ranks"] == ranks]
        if min(nodes, ranks) < 1 or not all(0 < run.per_second < float("inf") for run in found):
            raise ValueError("not positive")
    except (ValueError, TypeError, KeyError, ZeroDivisionError):
        wanted = 'a line of `hpcdl bench train --json`, or one such as {"nodes": 2, "ranks": 4, "per_second": 1234.5}'
        raise DataError(f"{where}: {line.strip()[:80]!r} is no run; wanted: {wanted}") from None
    return found


def _trained(nodes: int, result: dict[str, Any]) -> Run:
    return Run(nodes, int(result["ranks"]), f"steps, codec {result['codec']}", round(1 / result["total"]["median"], 3))


def _kinds(found: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(run.what for run in found))


def table(found: list[Run]) -> list[list[str]]:
    """Rows of the table, for sorted runs: each beside that of the same kind on the fewest ranks.

    >>> table([Run(1, 2, "", 100.0), Run(2, 4, "", 150.0)])
    [['1, 2', '100', '1.00', '1', '100%'], ['2, 4', '150', '1.50', '2', '75%']]
    """
    rows = []
    for what in _kinds(found):
        alike = [run for run in found if run.what == what]
        for run in alike:
            gain, ideal = run.per_second / alike[0].per_second, run.ranks / alike[0].ranks
            name = f"{run.nodes}, {run.ranks}" + (f", {what}" if what else "")
            rows.append([name, f"{run.per_second:,.4g}", f"{gain:.2f}", f"{ideal:.3g}", f"{gain / ideal:.0%}"])
    return rows

"""`hpcdl doctor`: what is here, whether training would work, and how to mend what would not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import HpcdlError, InvalidArgument
from . import mpiexec
from .env import check_launcher, place
from .facts import Row, machine, packages, slurm
from .mpi_facts import library_rows, probe_rows, selftest_rows

__all__ = ["doctor", "gather"]

_LOOKS = {"ok": ("ok", "green"), "absent": ("-", "dim"), "note": ("note", "yellow"), "bad": ("BAD", "bold red")}


def doctor(json_file: str | None = None) -> int:
    """Gather the facts, print them as a table (JSON with `json_file` "-"), and return 1 if training would fail, else 0.

    Under mpirun or srun all ranks take part in measuring the network, and rank 0 reports.
    """
    here = place()
    network: list[Row] = []
    if here is not None and here.size > 1:
        network = _network()
        if here.rank != 0:
            return 0
    if json_file not in (None, "-") and not Path(json_file or "").absolute().parent.is_dir():
        raise InvalidArgument(f"--json {json_file}: there is no folder {Path(json_file or '').absolute().parent}")
    rows = [*gather(), *network]
    healthy = all(row.state != "bad" for row in rows)
    report = {"healthy": healthy, "rows": [asdict(row) for row in rows]}
    if json_file == "-":
        print(json.dumps(report, indent=1))
    else:
        _show(rows, healthy)
        if json_file is not None:
            Path(json_file).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if healthy else 1


def gather() -> list[Row]:
    """All facts that one process can gather; what could crash or hang runs in processes of its own."""
    library, rows = library_rows()
    of_machine = list(machine())
    if all(row.state != "bad" for row in rows):
        rows += probe_rows(gpus=any(row.name == "GPUs" and row.state == "ok" for row in of_machine))
    rows += packages()
    rows += of_machine
    rows += slurm(str(library) if library else None)
    if all(row.state != "bad" for row in rows):
        rows += selftest_rows()
    else:
        rows.append(Row("self-test", "all-reduce on 2 ranks", "not tried, for what is bad above", "absent"))
    return rows


def _network() -> list[Row]:
    from .link import measure

    here = place()
    assert here is not None
    try:
        check_launcher(mpiexec.library().text)  # MPI_Init could end this process
        return measure(here)
    except (ImportError, RuntimeError) as error:
        text, _, cure = str(error).partition("Cure:")
        if not isinstance(error, HpcdlError):
            cure = "see the line of the MPI library"
        return [Row("network", "world", " ".join(text.replace("Cause:", "").split()), "bad", cure.strip())]


def _show(rows: Iterable[Row], healthy: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, **_width())
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ({"style": "bold"}, {}, {}, {"overflow": "fold"}):
        table.add_column(**column)  # type: ignore[arg-type]
    topic = ""
    for row in rows:
        label, style = _LOOKS[row.state]
        table.add_row(row.topic if row.topic != topic else "", Text(label, style), Text(row.name), Text(row.value))
        if row.cure:
            table.add_row("", "", "", Text(f"-> {row.cure}", style))
        topic = row.topic
    console.print(table)
    verdict = Text("Training works here.", "green") if healthy else Text("Training would fail here: mend what is BAD.", "bold red")
    console.print(verdict)


def _width() -> dict[str, Any]:
    """No terminal, no wrapping: a log or a grep wants whole lines. A rank's terminal is the launcher's, and says nothing of the user's."""
    return {} if sys.stdout.isatty() and place() is None else {"width": 400, "force_terminal": False}

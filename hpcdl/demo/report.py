"""What the demo ends with: the same facts as a table for the eye and as JSON for a program."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

__all__ = ["Report", "Result", "StepSeconds", "table", "write_json"]


@dataclass(frozen=True)
class Result:
    """A trained model on the test set: share predicted right, mean loss."""

    test_accuracy: float
    test_loss: float


@dataclass(frozen=True)
class StepSeconds:
    """Seconds per step by part, means over steps and ranks. waiting: for communication that computing did not hide."""

    compute: float
    waiting: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.compute + self.waiting + self.optimizer


@dataclass(frozen=True)
class Report:
    """The demo's findings. Bytes are payload sent by the rank that sends most; None where the MPI library moves them uncounted. The ratio
    is to the same step without a codec; None where nothing was counted. codec_pays: for a lossy codec, where that was measured.
    device: what computed; on a GPU the seconds of steps are the GPU's own.
    """

    data: str
    network: str
    ranks: int
    nodes: int
    codec: str
    collective: str
    optimizer: str
    epochs: int
    batch_size: int
    seed: int
    error_feedback: bool
    test_accuracy: float
    test_loss: float
    single_process: Result
    accuracy_difference: float
    loss_difference: float
    replicas_equal: bool
    samples_per_second: float
    wire_bytes_per_step: float | None
    wire_ratio: float | None
    codec_pays: str | None
    waiting_share: float
    step_seconds: StepSeconds
    device: str
    versions: dict[str, str]


def table(report: Report) -> Table:
    """The report for a terminal."""
    about = f"{report.network} on {report.data}, {report.ranks} ranks, {report.collective}, {report.codec}, {report.optimizer}"
    rows = Table("", "", title=about, show_header=False, title_justify="left")
    single, step = report.single_process, report.step_seconds
    rows.add_row("computed by", report.device)
    rows.add_row("test accuracy", f"{report.test_accuracy:.2%}, loss {report.test_loss:.4f}")
    rows.add_row("one process, joined batch", f"{single.test_accuracy:.2%}, loss {single.test_loss:.4f}")
    rows.add_row("difference", f"{100 * report.accuracy_difference:+.2f} points, loss {report.loss_difference:+.2g}")
    rows.add_row("replicas bitwise equal", "yes" if report.replicas_equal else "NO: the ranks have trained different models")
    rows.add_row("samples per second", f"{report.samples_per_second:,.0f}")
    rows.add_row("bytes sent per rank and step", _traffic(report.wire_bytes_per_step, report.wire_ratio))
    if report.codec_pays is not None:
        rows.add_row("does the codec pay here", report.codec_pays)
    parts = f"compute {1e3 * step.compute:.2f}, waiting {1e3 * step.waiting:.2f}, optimizer {1e3 * step.optimizer:.2f}"
    rows.add_row("time per step", f"{1e3 * step.total:.2f} ms: {parts}")
    rows.add_row("time waiting for communication", f"{report.waiting_share:.1%}")
    return rows


def _traffic(sent: float | None, ratio: float | None) -> str:
    if sent is None:
        return "inside the MPI library, not counted"
    return f"{sent:,.0f}" + ("" if ratio is None else f" ({ratio:.3f} of float32)")


def write_json(report: Report, path: Path) -> None:
    """Write the report to `path`, all of it or nothing: a reader never sees half a file. A loss that is not finite becomes null."""
    values = json.loads(json.dumps(asdict(report)), parse_constant=lambda _: None)
    path = path.resolve()
    if path.exists() and not path.is_file():  # a pipe or a device is written to, never replaced
        path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return
    descriptor, scratch = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, allow_nan=False)
            file.write("\n")
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise

"""The report: the table says what the JSON says, and the file appears whole or not at all."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from hpcdl.demo import report
from hpcdl.demo.report import Report, Result, StepSeconds

SAMPLE = Report(
    data="8x8 digits",
    network="64-512-10",
    ranks=4,
    nodes=1,
    codec="fp16",
    collective="ring",
    optimizer="adam",
    epochs=20,
    batch_size=128,
    seed=0,
    error_feedback=False,
    test_accuracy=0.975,
    test_loss=0.1,
    single_process=Result(0.98, 0.09),
    accuracy_difference=-0.005,
    loss_difference=0.01,
    replicas_equal=True,
    samples_per_second=12345.6,
    wire_bytes_per_step=115_000.0,
    wire_ratio=0.5,
    codec_pays="fp16 pays: 1.9 times faster over 200 Mbit/s; it pays on networks below 15 Gbit/s",
    waiting_share=0.25,
    step_seconds=StepSeconds(0.002, 0.001, 0.001),
    device="cpu (x86_64)",
    versions={"python": "3.11"},
)


def shown(sample):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report.table(sample))
    return capture.get()


def test_table():
    text = shown(SAMPLE)
    for words in (
        "97.50%",
        "98.00%",
        "-0.50 points",
        "yes",
        "12,346",
        "115,000",
        "0.500 of float32",
        "4.00 ms",
        "fp16 pays: 1.9",
        "4 ranks, ring, fp16",
    ):
        assert words in text
    assert "pays" not in shown(replace(SAMPLE, codec_pays=None))
    assert "NO" in shown(replace(SAMPLE, replicas_equal=False))
    assert "115,000 " in shown(replace(SAMPLE, wire_ratio=None)) and "of float32" not in shown(replace(SAMPLE, wire_ratio=None))
    assert "not counted" in shown(replace(SAMPLE, wire_bytes_per_step=None, wire_ratio=None))


def test_json(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    report.write_json(SAMPLE, path)
    found = json.loads(path.read_text())
    assert found["single_process"] == {"test_accuracy": 0.98, "test_loss": 0.09}
    assert found["step_seconds"] == {"compute": 0.002, "waiting": 0.001, "optimizer": 0.001}
    assert found["replicas_equal"] is True and found["wire_ratio"] == 0.5
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_json_of_a_training_that_diverged(tmp_path):
    report.write_json(replace(SAMPLE, test_loss=float("nan"), loss_difference=float("inf")), tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["test_loss"] is None and found["loss_difference"] is None


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(report.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.write_json(SAMPLE, path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1

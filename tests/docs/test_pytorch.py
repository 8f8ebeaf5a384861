"""The README's PyTorch programs: what it calls a job is one, which tests/jobs runs; the other runs here."""

import sys

import pytest
from harness.parts import framework

framework("torch")

from docs.blocks import ROOT, blocks  # noqa: E402
from docs.test_readme import folder, run  # noqa: E402, F401


def block(name):
    return next(block.text for block in blocks("README.md") if block.name == name)


def test_the_digits_are_the_job():
    assert block("digits_torch.py") == (ROOT / "jobs/digits_torch.py").read_text(encoding="utf-8")


@pytest.mark.outer
def test_the_backend(folder, require):  # noqa: F811
    require("mpi")
    said = run([sys.executable, "-m", "hpcdl.cli", "run", "-n", "4", "distributed.py"], folder)
    assert said.strip() == "4 ranks", said

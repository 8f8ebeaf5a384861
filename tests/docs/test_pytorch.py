"""The README's PyTorch programs: each is what it says, and runs."""

import re
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
@pytest.mark.parametrize(
    "name, wanted", [("digits_torch.py", r"4 ranks: 9\d\.\d+% of \d+ test images right"), ("distributed.py", "4 ranks")]
)
def test_programs(folder, require, name, wanted):  # noqa: F811
    require("sklearn")
    said = run([sys.executable, "-m", "hpcdl.cli", "run", "-n", "4", name], folder)
    assert re.fullmatch(wanted, said.strip()), said

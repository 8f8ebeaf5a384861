"""A job of some of the ranks that were started."""

from __future__ import annotations

import pytest
from harness.tell import heard

pytestmark = [pytest.mark.outer]


@pytest.mark.parametrize("cases", [("ranks", "fewer_ranks"), ("communicators",)], ids=" ".join)
def test_init(program, cases) -> None:
    process = program("subsets", *cases)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    told, _ = heard(output)
    assert told == {case: dict.fromkeys(range(4), "") for case in cases}, output

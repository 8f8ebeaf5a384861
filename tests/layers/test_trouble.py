"""A rank that raises ends all of them, with its own traceback, on every backend; none hangs."""

from __future__ import annotations

import time

import pytest

from .conftest import BACKENDS

pytestmark = [pytest.mark.outer]


@pytest.mark.parametrize(("backend", "where"), [*((backend, "data") for backend in BACKENDS), ("torch", "callback")])
def test_one_rank_raises(program, backend, where) -> None:
    begun = time.monotonic()
    done = program("raises", backend, where, n=2, HPCDL_TIMEOUT="600")
    told = done.stdout + done.stderr
    assert done.returncode != 0, told
    assert "the disk is gone" in told and "rank 1" in told, told[-4000:]
    assert "nobody raised" not in told
    assert time.monotonic() - begun < 600, "it ended by its time-out"


def test_one_rank_has_fewer_epochs(program) -> None:
    """Once, where the error has the longest way: out of a step that XLA compiled."""
    done = program("raises", "jax", "epochs", n=2)
    told = done.stdout + done.stderr
    assert done.returncode != 0, told
    assert "rank 1 of 2 ended already; meanwhile rank 0" in told, told[-4000:]

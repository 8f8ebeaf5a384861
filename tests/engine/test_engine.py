"""`init(engine="horovod")`: the doors' reductions through an installed Horovod, equal to this package's own."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from hpcdl.transport.horovod import other_library

pytestmark = [pytest.mark.outer]


@pytest.mark.parametrize("n", [1, 4])
def test_operations(program, n) -> None:
    ended = program("operations", n=n)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("passed") == n


@pytest.mark.parametrize("n", [3])
def test_the_same_training_on_both_engines(program, n) -> None:
    """By all doors; and a real Horovod's own optimizer comes out where ours does."""
    found = {}
    for engine in ("hpcdl", "horovod"):
        ended = program("training", n=n, HPCDL_ENGINE=engine)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        who, found[engine] = json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("@"))[1:])
        assert who == engine
    for codec, loss in (("none", 2e-5), ("fp16", 2e-2)):
        ours, theirs = found["hpcdl"][codec], found["horovod"][codec]
        its_own = theirs.pop("its own")
        assert ours.keys() == theirs.keys() >= {"numpy", "torch"}
        for door in ours:
            exact = n == 2 and codec == "none"  # a sum of two has one order
            np.testing.assert_allclose(theirs[door], ours[door], rtol=0, atol=0 if exact else loss, err_msg=f"{codec}, {door}")
        np.testing.assert_allclose(its_own, ours["torch"], rtol=0, atol=loss, err_msg=f"{codec}, its own")


TROUBLE = {
    "missing": r"LaunchError: engine='horovod': rank 1 of 2: the Horovod in \S+ has no part for PyTorch.*python -m hpcdl\.horovod\.build",
    "engines": r"Mismatch: ranks disagree on the engine: rank 0: 'hpcdl'; rank 1: 'horovod'",
    "unknown": r"UnknownName: unknown engine 'nccl'; known: hpcdl, horovod",
    "shapes": r"Mismatch: ranks disagree on operation \d+ of the world: rank 0: .*shape 3.*; rank 1: .*shape 4",
    "names": r"Mismatch: ranks disagree on operation \d+ of the world: rank 0: .*named 'b'.*; rank 1: .*named 'a'",
}


@pytest.mark.parametrize("what", TROUBLE)
def test_trouble_is_told_alike_on_all_ranks(program, what) -> None:
    ended = program("trouble", what)
    told = dict(re.findall(r"^@(\d) (.*)", ended.stdout, re.MULTILINE))
    assert sorted(told) == ["0", "1"], ended.stdout + ended.stderr
    assert told["0"] == told["1"]
    assert re.search(TROUBLE[what], told["0"]), told["0"]


def test_a_rank_that_has_ended(program) -> None:
    ended = program("trouble", "ends")
    assert re.search(r"^@1 PeerLost: rank 0 of 2 ended already", ended.stdout, re.MULTILINE), ended.stdout + ended.stderr


def test_without_horovod(require) -> None:
    """The error names the cure; where Horovod is, this has nothing to show."""
    require("mpi")
    from importlib.util import find_spec

    from .conftest import launch

    if find_spec("horovod"):
        pytest.skip("Horovod is installed")
    ended = launch("operations")
    assert ended.returncode != 0
    assert "Horovod is not installed; cure: python -m hpcdl.horovod.build" in ended.stderr


def test_compression_for_its_own_optimizers(program) -> None:
    ended = program("compression", n=3)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("passed") == 3


def test_another_mpi_library() -> None:
    extension = b"\0libstdc++.so.6\0libmpi.so.12\0libmpi_cxx.so\0"
    assert other_library(extension, {"libmpi.so.12.3.1"}) == ""
    assert other_library(extension, set()) == ""
    assert other_library(b"static", {"libmpi.so.40"}) == ""
    assert "another MPI library (libmpi.so.12) than mpi4py loads (libmpi.so.40.40.8)" in other_library(extension, {"libmpi.so.40.40.8"})

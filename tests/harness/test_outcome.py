"""Whose fault it was: how the outcomes and reports of all ranks become one."""

import pytest

from harness.merge import merge
from harness.outcome import RankFailure, attempt, caught, settle
from hpcdl.errors import PeerLost


def raising(error):
    def call():
        raise error

    return call


def test_all_passed():
    settle([attempt(rank, lambda: None) for rank in range(3)], 3)


def test_the_lost_peer_is_not_blamed():
    outcomes = [attempt(0, raising(PeerLost("rank 1 is gone"))), attempt(1, raising(ValueError("mine"))), attempt(2, lambda: None)]
    with pytest.raises(RankFailure, match=r"^rank 1 of 3: ValueError: mine\n") as caught_:
        settle(outcomes, 3)
    assert "in call" in str(caught_.value) and str(caught_.value).endswith("rank 0: PeerLost: rank 1 is gone\nrank 2: passed")


def test_a_failure_beats_a_skip():
    with pytest.raises(RankFailure):
        settle([attempt(0, raising(pytest.skip.Exception("no"))), attempt(1, raising(SystemExit(3)))], 2)


def test_skip():
    with pytest.raises(pytest.skip.Exception, match="rank 1: no reason"):
        settle([attempt(0, lambda: 1), attempt(1, raising(pytest.skip.Exception("no reason")))], 2)


def test_an_error_that_cannot_be_shown():
    class Rude(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    assert caught(0, Rude()).state == "failed"


def report(when, outcome, text="", **more):
    return pytest.TestReport("a.py::b", ("a.py", 0, "b"), {}, outcome, text or None, when, **more)


def test_merge_takes_the_failing_rank():
    fine = [report("setup", "passed"), report("call", "passed"), report("teardown", "passed")]
    bad = [report("setup", "passed"), report("call", "failed", "boom"), report("teardown", "passed")]
    merged = merge([fine, fine, bad, []])
    assert [one.outcome for one in merged] == ["passed", "failed", "passed"]
    assert merged[1].longrepr == "boom" and merged[1].sections[0] == ("this is rank 2 of 4", "rank 0: passed\nrank 1: passed")


def test_merge_of_a_failed_setup_has_no_call():
    fine = [report("setup", "passed"), report("call", "failed", "an echo", echo=True), report("teardown", "passed")]
    bad = [report("setup", "failed", "boom"), report("teardown", "passed")]
    assert [(one.when, one.outcome) for one in merge([fine, bad])] == [("setup", "failed"), ("teardown", "passed")]


def test_merge_of_a_pure_test():
    """Other ranks have nothing to say about it."""
    assert len(merge([[report("setup", "passed"), report("call", "passed"), report("teardown", "passed")], [], []])) == 3

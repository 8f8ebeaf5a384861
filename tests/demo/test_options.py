"""The demo's options: bad ones are refused before any rank starts, good ones reach the ranks unchanged."""

import argparse

import pytest

from hpcdl.demo import cli, options
from hpcdl.errors import DataError, InvalidArgument, UnknownName
from hpcdl.launch.env import Place
from hpcdl.world import World


def parse(*words):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def started(monkeypatch):
    """What the demo would start: (command, ranks), instead of starting it."""
    calls = []
    monkeypatch.setattr(cli, "place", lambda: None)
    monkeypatch.setattr(cli, "run", lambda command, ranks: calls.append((command, ranks)) or 0)
    return calls


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["--codec", "fp7"], UnknownName, r"unknown codec 'fp7'; known: .*fp16"),
        (["--collective", "star"], UnknownName, r"unknown collective 'star'; known: .*ring"),
        (["--optimizer", "lion"], UnknownName, r"unknown optimizer 'lion'; known: adam"),
        (["--lr", "0"], InvalidArgument, r"lr=0\.0: must be a finite number above 0"),
        (["--lr", "nan"], InvalidArgument, "lr='nan'"),
        (["--epochs", "0"], InvalidArgument, "--epochs 0: must be at least 1"),
        (["--batch-size", "-4"], InvalidArgument, "--batch-size -4"),
        (["--seed", "-1"], InvalidArgument, "--seed -1"),
        (["--data", "/nowhere"], DataError, "no such folder"),
        (["--json", "/nowhere/report.json"], InvalidArgument, "--json /nowhere/report.json"),
        (["--json", "/"], InvalidArgument, "cannot write"),
    ],
)
def test_bad_values(words, error, says):
    with pytest.raises(error, match=says):
        options.check(parse(*words))


@pytest.mark.parametrize("words", [["-n", "0"], ["-n", "-2"], ["--codec", "fp7"]])
def test_bad_values_start_nothing(words, started, capsys):
    assert cli.main(parse(*words)) == 2
    assert started == []
    assert capsys.readouterr().err.startswith("hpcdl demo: error: ")


def test_cuda_without_a_gpu(started, capsys, monkeypatch):
    monkeypatch.setattr(cli, "why_no_gpu", lambda: "no CUDA here; cure: a GPU")
    assert cli.main(parse("--device", "cuda")) == 2
    assert started == [] and capsys.readouterr().err == "hpcdl demo: error: --device cuda: no CUDA here; cure: a GPU\n"


@pytest.mark.parametrize("widths", ["0", "12,", "many", "-3"])
def test_bad_widths(widths, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse("--hidden", widths)
    assert exit_.value.code == 2 and "512,128" in capsys.readouterr().err


def test_the_ranks_get_the_same_options(started):
    words = "--codec int8 --collective tree --epochs 3 --batch-size 32 --optimizer momentum --lr 1e-05 --hidden 30,20 --error-feedback"
    args = parse("-n", "3", *words.split())
    assert cli.main(args) == 0
    ((command, ranks),) = started
    assert command[:2] == ["-m", "hpcdl.demo.train"] and ranks == 3
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    there = vars(parser.parse_args(command[2:]))
    assert there == {name: value for name, value in vars(args).items() if name != "n"}
    assert there["hidden"] == (30, 20) and there["lr"] == 1e-05 and there["error_feedback"] and not there["check_finite"]


def test_four_ranks_by_default(started):
    cli.main(parse())
    assert started[0][1] == 4


def test_learning_rate_joins_the_optimizers_own_parameters():
    assert options.optimizer_spec(parse("--optimizer", "sgd")) == "sgd"
    assert options.optimizer_spec(parse("--optimizer", "sgd", "--lr", "0.5")) == "sgd:lr=0.5"
    assert options.optimizer_spec(parse("--optimizer", "adam:beta1=0.8", "--lr", "0.5")) == "adam:beta1=0.8,lr=0.5"


def test_another_number_of_ranks_than_the_jobs_is_refused(monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(cli, "place", lambda: Place("mpirun", 0, 2, 0, 2))
    monkeypatch.setattr(cli, "init", World.solo)
    monkeypatch.setattr(cli, "train", lambda args: trained.append(args) or 0)
    assert cli.main(parse("-n", "2")) == 2
    assert "already a job of 1 ranks" in capsys.readouterr().err and not trained
    assert cli.main(parse()) == 0 and trained

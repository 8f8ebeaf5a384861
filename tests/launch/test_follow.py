"""What `hpcdl status`, `logs` and `submit` make of answers that a small Slurm of minutes does not give; the others are in tests/slurm."""

from __future__ import annotations

import argparse
import threading
import time

import pytest

from hpcdl.errors import InvalidArgument, LaunchError
from hpcdl.launch import follow, queue
from hpcdl.launch.slurm import Job

RUNNING = {"JobState": "RUNNING", "RunTime": "00:10:00", "TimeLimit": "01:00:00", "StdOut": "train-7.out"}


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """``slurm(records, **answers)``: what `scontrol show` knows, and what further commands print."""
    monkeypatch.chdir(tmp_path)

    def say(records, **answers) -> None:
        def asked(command, *_, **__):
            if command not in answers:
                raise LaunchError(f"{command} refuses")
            return answers[command]

        monkeypatch.setattr(queue, "show", lambda job: records)
        monkeypatch.setattr(queue, "slurm", asked)

    return say


def test_elements_that_the_controller_has_forgotten(slurm, capsys) -> None:
    """It forgets each some minutes after its end, while the array goes on."""
    going = [{**RUNNING, "JobId": f"{10 + i}", "ArrayJobId": "7", "ArrayTaskId": f"{i}"} for i in (2, 3)]
    ended = [f"7_{i}|{state}|n{i}|00:01:00|01:00:00|{code}:0|a|name" for i, state, code in ((0, "FAILED", 3), (1, "COMPLETED", 0))]
    slurm(going, sacct="\n".join([*ended, "7_2|RUNNING|n2|00:10:00|01:00:00|0:0|a|name"]))
    follow.status(argparse.Namespace(job="7"))
    out = capsys.readouterr().out
    assert "job 7_0, a|name: FAILED" in out and "exit code 3" in out and out.endswith("1 FAILED, 1 COMPLETED, 2 RUNNING\n"), out


def test_a_log_of_elements_that_wait(slurm, capsys) -> None:
    record = {**RUNNING, "JobState": "PENDING", "JobId": "7", "ArrayJobId": "7", "ArrayTaskId": "0-3%2"}
    slurm([record])
    with pytest.raises(InvalidArgument, match=r"one of its logs can be followed: hpcdl logs -f 7_0$"):
        follow.logs(argparse.Namespace(job="7", follow=True, lines=5))
    slurm([{**record, "JobState": "CANCELLED"}])
    assert follow.logs(argparse.Namespace(job="7_0", follow=True, lines=5)) == 0


def test_a_job_of_several_parts_has_one_log(slurm, capsys, tmp_path) -> None:
    (tmp_path / "train-7.out").write_text("epoch 1\n")
    slurm([{**RUNNING, "JobState": "COMPLETED", "JobId": f"{7 + i}", "HetJobOffset": f"{i}", "HetJobId": "7"} for i in range(2)])
    assert follow.logs(argparse.Namespace(job="7", follow=True, lines=5)) == 0
    assert capsys.readouterr().out == "epoch 1\n"


def test_a_log_that_begins_anew(slurm, capfd, tmp_path, monkeypatch) -> None:
    """As without `--open-mode=append` after a requeue: what is shorter than before is read from its beginning."""
    monkeypatch.setattr(follow, "_TICK", 0.02)
    monkeypatch.setattr(follow, "_ASK", 0.05)
    log, facts = tmp_path / "train-7.out", {**RUNNING, "JobId": "7"}
    log.write_text("a long line of the first run\n")
    slurm([facts])
    reader = threading.Thread(target=follow.logs, args=[argparse.Namespace(job="7", follow=True, lines=5)])
    reader.start()
    seen, deadline = "", time.monotonic() + 60
    while "first run" not in seen and time.monotonic() < deadline:
        seen += capfd.readouterr().out
    time.sleep(0.2)  # else the file is short before its length was looked at
    log.write_text("again\n")
    while "again" not in seen and time.monotonic() < deadline:
        seen += capfd.readouterr().out
    slurm([{**facts, "JobState": "COMPLETED"}])
    reader.join(60)
    assert seen.endswith("first run\nagain\n") and not reader.is_alive()


@pytest.mark.parametrize(
    ("more", "environ", "taken"),
    [
        ({}, {}, False),
        ({"options": ("--qos=long",)}, {}, True),
        ({"options": ("-p long",)}, {}, True),
        ({}, {"SBATCH_PARTITION": "long"}, True),
        ({"partition": "debug"}, {"SBATCH_PARTITION": "long"}, False),
    ],
)
def test_a_time_that_the_partition_does_not_give(slurm, monkeypatch, more, environ, taken) -> None:
    """Unless it is another partition that counts, or a quality of service that lifts the limit: Slurm has said yes."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    slurm(
        [],
        sinfo="debug*|up|4|8|16000|30:00|(null)\n",
        sbatch="sbatch: Job 1 to start at 2026-01-01T00:00:00 using 1 processors on nodes n1\n",
    )
    job = Job(command=("train.py",), name="train", time="02:00:00", **more)
    if taken:
        assert queue.validate(job) == "Slurm expects it to start by 2026-01-01 00:00:00, on n1"
    else:
        with pytest.raises(LaunchError, match=r"--time 02:00:00 is more than the .* gives \(30:00\)"):
            queue.validate(job)

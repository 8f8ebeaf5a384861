"""`hpcdl status`, `logs` and `cancel`: what a job is doing, as Slurm and the log tell."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from ..errors import InvalidArgument, LaunchError
from . import queue
from .slurm import seconds

__all__ = ["cancel", "logs", "status"]

_UNDER_WAY = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED")
_PROGRESS = re.compile(r"^(?!srun|slurmstepd|hpcdl|\d{4}-).*\b(?:epoch|step|iteration|loss)\b\D{0,12}\d", re.IGNORECASE)
_OF_LAUNCHERS = re.compile(r"\s*(srun|slurmstepd\S*|mpirun|prterun|\[\S+?\]):? |-{20}|={20}|=   ")
_TAIL = 1 << 16  # bytes of a log's end in which lines are looked for
_TICK, _ASK = 0.5, 10.0  # seconds: between looks at the log, between questions to the controller
_JOB = re.compile(r"\d+(_\d+)?")
_ELEMENT = re.compile(r"\d+_\d+")  # the first one, where several wait: 1234_0-9


def status(options: argparse.Namespace) -> int:
    """Print state, nodes, time left, restarts and progress of a job, or of each element of an array. 1 where nothing is known of it."""
    found = _found(options.job)
    for job, facts in found:
        print("\n".join(_lines(job, facts)))
    if len(found) > 1:
        states = [facts["JobState"] for _, facts in found]
        print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    return 0


def logs(options: argparse.Namespace) -> int:
    """Print the last lines of a job's log; with `follow`, also what comes, until the job has ended."""
    found = [pair for pair in _found(options.job) if pair[1].get("HetJobOffset", "0") == "0"]  # of several parts the first has the log
    if options.follow and "_" not in options.job and (element := _ELEMENT.match(found[0][0])):
        raise InvalidArgument(f"job {options.job} is an array; one of its logs can be followed: hpcdl logs -f {element[0]}")
    for job, facts in found:
        if len(found) > 1:
            print(f"==> {job}: {facts['JobState']}, {facts['StdOut']} <==")
        if not Path(facts["StdOut"]).is_file():
            print(f"hpcdl: job {job}, {facts['JobState']}: its log {facts['StdOut']} is not there (yet)", file=sys.stderr)
            continue
        print("\n".join(_tail(Path(facts["StdOut"])).splitlines()[-options.lines :]), flush=True)
    if options.follow:
        _follow(options.job, found[0][1])
    return 0


def cancel(options: argparse.Namespace) -> int:
    """End a job, an array or one element of it. What has ended already is said to have."""
    found = _found(options.job)
    ended = [facts["JobState"] for _, facts in found if facts["JobState"] not in _UNDER_WAY]
    if len(ended) == len(found):
        print(f"job {options.job} has ended already: {', '.join(dict.fromkeys(ended))}")
        return 0
    queue.cancel(options.job)
    print(f"job {options.job} is cancelled; `hpcdl status {options.job}` tells when it has ended")
    return 0


def _found(job: str) -> list[tuple[str, dict[str, str]]]:
    """What is known of a job: name and facts, for each element of an array. Raises LaunchError where nothing is."""
    if not _JOB.fullmatch(job):
        raise InvalidArgument(f"job {job!r}; valid: a job's number, 1234, or an element of an array, 1234_0")
    found = []
    for facts in queue.show(job):
        index = facts.get("ArrayTaskId")
        found.append((f"{facts['ArrayJobId']}_{index}" if index else facts["JobId"], facts))
    if not found:
        return list(_ended_long_ago(job))
    if "_" not in job and any("ArrayTaskId" in facts for _, facts in found):
        found += _ended_elements(job, {name for name, _ in found})
    return sorted(found, key=lambda pair: [int(part) for part in re.findall(r"\d+", pair[0])])


def _ended_elements(job: str, known: set[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Of an array that goes on: the elements that the controller has forgotten, each some minutes after its end."""
    try:
        ended = list(_ended_long_ago(job))
    except LaunchError:  # nothing is known of any
        return
    for name, facts in ended:
        if name not in known and _ELEMENT.fullmatch(name) and facts["JobState"] not in _UNDER_WAY:
            yield name, facts


def _ended_long_ago(job: str) -> Iterator[tuple[str, dict[str, str]]]:
    """What the accounting knows of a job that the controller has forgotten, else its log in this folder."""
    number, _, index = job.partition("_")
    paths = sorted(Path().glob(f"*-{number}_{index or '*'}.out" if index else f"*-{number}.out")) or sorted(
        Path().glob(f"*-{number}_*.out")
    )
    try:
        lines = queue.slurm(
            "sacct", "-n", "-X", "-P", "-j", job, "-o", "JobID,State,NodeList,Elapsed,Timelimit,ExitCode,JobName"
        ).splitlines()
    except LaunchError:  # accounting is off here
        lines = []
    names = ("JobId", "JobState", "NodeList", "RunTime", "TimeLimit", "ExitCode", "JobName")  # in a name anything may stand
    for line in lines:
        facts = dict(zip(names, line.split("|", len(names) - 1), strict=True))
        log = next((path for path in paths if path.stem.endswith(f"-{facts['JobId']}")), Path())
        yield facts["JobId"], {**facts, "JobState": facts["JobState"].split()[0], "StdOut": str(log)}
    if not lines and not paths:
        raise LaunchError(
            f"Slurm knows no job {job}, and there is no log *-{job}.out in {Path().absolute()}. Cure: `squeue --me` lists your jobs"
        )
    for path in [] if lines else paths:
        yield path.stem.rpartition("-")[2], {"JobName": path.stem.rpartition("-")[0], "JobState": "forgotten by Slurm", "StdOut": str(path)}


def _lines(job: str, facts: dict[str, str]) -> Iterator[str]:
    """A job in a few lines."""
    state = facts["JobState"]
    reason = facts.get("Reason", "None")
    yield f"job {job}, {facts.get('JobName', '?')}: {state}" + (f" ({reason})" if reason not in ("None", "", state) else "")
    if state == "PENDING" and facts.get("StartTime", "Unknown") != "Unknown":
        yield f"  expected to start at {facts['StartTime']}"
    nodes = facts.get("NodeList", "")
    if nodes not in ("", "(null)", "None assigned"):
        yield f"  nodes: {nodes}"
    if "RunTime" in facts and state != "PENDING":
        left = _left(facts) if state == "RUNNING" else ""
        yield f"  time: {facts['RunTime']} of {facts.get('TimeLimit', '?')}{left}"
    if facts.get("Restarts", "0") != "0":
        yield f"  restarts: {facts['Restarts']}"
    code = facts.get("ExitCode", "0:0")
    if state not in _UNDER_WAY and code != "0:0":
        number, _, signal = code.partition(":")
        yield f"  exit code {number}" + (f", signal {signal}" if signal != "0" else "")
    log = Path(facts.get("StdOut", ""))
    text = [line.strip() for line in _tail(log).splitlines() if line.strip() and not _OF_LAUNCHERS.match(line)]
    if progress := next((line for line in reversed(text) if _PROGRESS.search(line)), None):
        yield f"  progress: {progress[:200]}"
    if text and state not in _UNDER_WAY and state != "COMPLETED" and text[-1] != progress:
        yield f"  last line: {text[-1][:200]}"
    if log.name:
        yield f"  log: {log}" + ("" if log.exists() else " (not there yet)")


def _left(facts: dict[str, str]) -> str:
    """How much of its time a running job has left; nothing where that has no limit."""
    ran, limit = facts["RunTime"], facts.get("TimeLimit", "")
    try:
        return f", {timedelta(seconds=seconds(limit) - (seconds(ran) if ran.strip('0:') else 0))} left"
    except InvalidArgument:
        return ""


def _tail(path: Path) -> str:
    """The end of a log; nothing where it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _follow(job: str, facts: dict[str, str]) -> None:
    """Print what is added to the log until the job has ended, through all its restarts."""
    path = Path(facts["StdOut"])
    at = path.stat().st_size if path.exists() else 0
    asked, state = time.monotonic(), ""
    while True:
        ended = facts["JobState"] not in _UNDER_WAY
        size = path.stat().st_size if path.exists() else 0
        if size < at:  # begun anew, by a requeue
            at = 0
        if size > at:
            with path.open("rb") as file:
                file.seek(at)
                sys.stdout.buffer.write(chunk := file.read())
            at += len(chunk)
            sys.stdout.flush()
        if ended:
            print("\n".join(_lines(job, facts)), file=sys.stderr)
            return
        if facts["JobState"] != state and facts["JobState"] == "PENDING":
            print(f"hpcdl: job {job} waits in the queue ({facts.get('Reason', '')})", file=sys.stderr)
        state = facts["JobState"]
        time.sleep(_TICK)
        if time.monotonic() - asked > min(_ASK, 1.0 if state != "RUNNING" else _ASK):
            asked, facts = time.monotonic(), _found(job)[0][1]
            if (log := Path(facts["StdOut"])).name and log != path:  # of an element that waited among others
                path, at = log, 0

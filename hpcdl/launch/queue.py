"""Slurm's commands, asked: would it run, submit it, where is it, end it. An error bears Slurm's own words, and ours."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import LaunchError
from .slurm import Job, render, seconds

__all__ = ["Partition", "cancel", "partitions", "show", "slurm", "submit", "validate"]

_PATIENCE = 120.0


@dataclass(frozen=True)
class Partition:
    """A kind of nodes in a partition. cpus, memory (MiB): of a node; limit: longest time, "" for none; gpus: as in gres, "gpu:a100:4"."""

    name: str
    default: bool
    nodes: int
    cpus: int
    memory: int
    limit: str
    gpus: str

    def __str__(self) -> str:
        what = f"{self.name}: {self.nodes} node{'' if self.nodes == 1 else 's'} of {self.cpus} cores and {self.memory} MiB"
        return what + (f", {self.gpus}" if self.gpus else "") + f", {f'at most {self.limit}' if self.limit else 'no time limit'}"


def slurm(*command: str, text: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """What one of Slurm's commands prints. Raises LaunchError with its own words where it fails or is not here."""
    try:
        child = subprocess.run(
            command,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            env=environ,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]} is not here, so this is no machine of a Slurm cluster. Cure: log in to the cluster and type it there, or"
            " `module load slurm`; on one machine, `hpcdl run -n 4 train.py` starts ranks; --dry-run prints the script without Slurm"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{command[0]} cannot be asked: {error}") from None
    if child.returncode:
        said = (child.stderr.strip() or child.stdout.strip() or f"exit code {child.returncode}, and no word").replace("\n", "\n  ")
        raise LaunchError(f"{command[0]} refuses:\n  {said}")
    return child.stderr if command[1:2] == ("--test-only",) else child.stdout


def partitions() -> list[Partition]:
    """The partitions that are up, one entry for each kind of node in them. Raises LaunchError."""
    found = []
    for line in slurm("sinfo", "-h", "-o", "%P|%a|%D|%c|%m|%l|%G").splitlines():
        name, state, nodes, cpus, memory, limit, gres = line.strip().split("|", 6)
        if state != "up":
            continue
        least = [int(value.rstrip("+") or 0) for value in (nodes, cpus, memory)]  # "8+": some have more
        gpus = next((gpu for gpu in re.sub(r"\(.*?\)", "", gres).split(",") if gpu.startswith("gpu:")), "")
        found.append(
            Partition(name.rstrip("*"), name.endswith("*"), least[0], least[1], least[2], "" if limit == "infinite" else limit, gpus)
        )
    return found


def validate(job: Job) -> str:
    """Ask Slurm whether this job could run, without queueing it; when and where, in its words.

    Raises LaunchError with Slurm's words and what the partitions have; also for a time that Slurm would let wait for ever.
    """
    try:
        answer = slurm("sbatch", "--test-only", text=(script := render(job)), environ=for_sbatch(script, os.environ))
    except LaunchError as error:
        raise LaunchError(f"{error}\n{_advice(job, str(error))}") from None
    limits = {part.limit for part in partitions() if (part.name == job.partition if job.partition else part.default)}
    if job.time and not _placed_otherwise(job) and limits and all(limit and seconds(limit) < seconds(job.time) for limit in limits):
        longest = max(limits, key=seconds)
        where = f"the partition {job.partition}" if job.partition else "the default partition"
        raise LaunchError(f"--time {job.time} is more than {where} gives ({longest}); it would wait for ever.\n{_have()}")
    expected = re.search(r"to start at (\S+) .* on nodes (\S+)", answer)  # the number in it is that of no job
    return f"Slurm expects it to start by {expected[1].replace('T', ' ')}, on {expected[2]}" if expected else "Slurm would take it"


def _placed_otherwise(job: Job) -> bool:
    """Whether something else than --partition names the place, or lifts its limit. Then Slurm's own word has to do."""
    names = ("SBATCH_QOS", "SBATCH_RESERVATION", *(() if job.partition else ("SBATCH_PARTITION",)))
    return any(re.match(r"--(partition|qos|reservation)\b|-[pq]", word) for word in job.options) or any(map(os.environ.get, names))


def _advice(job: Job, said: str) -> str:
    wanted = f"{job.nodes} node{'' if job.nodes == 1 else 's'} with {job.tasks} x {job.cpus_per_task} cores"
    wanted += f", {job.gpus_per_node} GPUs" * bool(job.gpus_per_node) + f", {job.mem} of memory" * bool(job.mem)
    wanted += f" in {job.partition or 'the default partition'}, for {job.time or 'the usual time'}"
    return f"Nothing was queued. You ask for {wanted}.\n{_have()}" if "is not here" not in said else ""


def _have() -> str:
    try:
        return "This cluster has:\n" + "\n".join(f"  {part}" for part in partitions())
    except LaunchError:
        return "`sinfo` tells what there is."


#: Variables by which sbatch takes another value than the script's line.
_VARIABLES = {
    "job-name": ("SBATCH_JOB_NAME",),
    "gpus-per-node": ("SBATCH_GPUS_PER_NODE", "SBATCH_GPUS"),
    "time": ("SBATCH_TIMELIMIT",),
    "partition": ("SBATCH_PARTITION",),
    "account": ("SBATCH_ACCOUNT",),
    "mem": ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
    "output": ("SBATCH_OUTPUT",),
    "array": ("SBATCH_ARRAY_INX",),
    "requeue": ("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE"),
    "open-mode": ("SBATCH_OPEN_MODE",),
    "signal": ("SBATCH_SIGNAL",),
}


def for_sbatch(script: str, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what sbatch puts above the lines of the script, and without what another job, in which we may be, tells its own.

    >>> for_sbatch("#SBATCH --time=1", {"SBATCH_TIMELIMIT": "9", "SBATCH_ACCOUNT": "a", "SLURM_JOB_ID": "1", "SLURM_CONF": "c"})
    {'SBATCH_ACCOUNT': 'a', 'SLURM_CONF': 'c'}
    """
    told = set(re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE))
    away = {name for option in told & {*_VARIABLES} for name in _VARIABLES[option]} | {"SBATCH_ARRAY_INX"}
    if "SLURM_JOB_ID" in environ:
        away |= {name for name in environ if name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS")}
    return {name: value for name, value in environ.items() if name not in away}


def submit(script: str) -> str:
    """Queue the script; the job's number. Raises LaunchError."""
    return slurm("sbatch", "--parsable", text=script, environ=for_sbatch(script, os.environ)).strip().split(";")[0]


def cancel(job: str) -> None:
    """End a job, an array or one element of it. Raises LaunchError."""
    slurm("scancel", job)


def show(job: str) -> list[dict[str, str]]:
    """What the controller knows of a job, by its own names; one entry for each element of an array. Empty where it knows none.

    Raises LaunchError where it cannot be asked.
    """
    try:
        lines = slurm("scontrol", "-o", "show", "job", job).splitlines()
    except LaunchError as error:
        if "Invalid job id" in str(error):
            return []
        raise
    return [dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", line)) for line in lines if line.strip()]

"""A Slurm job as data, and the batch script that it is: one of the templates of jobs/ with other lines in its edit region."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import InvalidArgument
from . import templates

__all__ = ["RESULTS", "TASK", "Job", "render", "seconds", "sweep_points", "template"]

TASK, RESULTS = "{task}", "{results}"  # stand for the array's index and the scaling study's file in a job's arguments
_VARIABLES = {TASK: '"$SLURM_ARRAY_TASK_ID"', RESULTS: '"$results"'}
_WARNING = 120  # seconds before the end; of a short job less
_TIMES = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds"


@dataclass(frozen=True)
class Job:
    """What `hpcdl submit` submits. `command` is a Python script with its arguments, or ("-m", module, …).

    gpus_per_node: "4" or "a100:4"; "" for none. ntasks_per_node 0: as many as GPUs, or 1. time "": the partition's own.
    sweep: (name, values) of hyper-parameters, one training for each combination, given as --name=value; `indices`: Slurm's own --array.
    checkpoint: the folder in which something new shows that a run has come further. scaling: numbers of nodes, ascending, one job after the
    other. test: as jobs/test.sbatch does. setup: shell commands before anything else; container: words in front of the program; options:
    further lines of #SBATCH.

    Raises InvalidArgument for what no job can be.
    """

    command: tuple[str, ...] = ()
    name: str = ""
    nodes: int = 1
    ntasks_per_node: int = 0
    cpus_per_task: int = 1
    gpus_per_node: str = ""
    time: str = "01:00:00"
    partition: str = ""
    account: str = ""
    mem: str = ""
    output: str = ""
    sweep: tuple[tuple[str, tuple[str, ...]], ...] = ()
    indices: str = ""
    at_once: int = 0
    requeue: bool = False
    restarts: int = 100
    checkpoint: str = ""
    scaling: tuple[int, ...] = ()
    test: bool = False
    mpi: str = "auto"
    python: str = field(default_factory=lambda: sys.executable)
    setup: tuple[str, ...] = ()
    container: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"nodes": 1, "ntasks_per_node": 0, "cpus_per_task": 1, "at_once": 0, "restarts": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InvalidArgument(f"{name.replace('_', '-')} must be at least {low}, got {getattr(self, name)}")
        if not self.command and not self.scaling:
            raise InvalidArgument("no script given. Usage: hpcdl submit --nodes 2 --ntasks-per-node 4 train.py args…")
        if self.gpus_per_node and not re.fullmatch(r"(?:[\w.-]+:)?\d+", self.gpus_per_node):
            raise InvalidArgument(f"gpus-per-node {self.gpus_per_node!r}; valid: a number, or a type and a number: a100:4")
        if self.gpus_per_node.rpartition(":")[2].strip("0") == "":
            object.__setattr__(self, "gpus_per_node", "")
        if self.indices and not re.fullmatch(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*", self.indices):
            raise InvalidArgument(f"array {self.indices!r}; valid: name=value,value… or indices such as 0-9, 1,3,5, 0-8:2")
        for what, value, sign in (("name", self.name, "/"), ("output", self.output, "\\")):
            if sign in value:  # the log would lie in another folder, and Slurm ends a job without a word where that is not there
                raise InvalidArgument(f"{what} {value!r} holds a {sign!r}, by which Slurm would not find the log; cure: another")
        if self.time:
            seconds(self.time)
        if (self.array and (self.scaling or self.test)) or (self.scaling and (self.requeue or self.test)):
            raise InvalidArgument("an array, a scaling study and a test do not go together, nor a scaling study and requeue")
        if self.scaling and (list(self.scaling) != sorted(set(self.scaling)) or self.scaling[0] < 1):
            raise InvalidArgument(f"scaling {','.join(map(str, self.scaling))}; valid: numbers of nodes, ascending: 1,2,4")
        if self.array and self.checkpoint and TASK not in self.checkpoint:
            text = (
                f"all elements of the array would write to the checkpoint {self.checkpoint!r}; cure: --checkpoint {self.checkpoint}-{TASK}"
            )
            raise InvalidArgument(text)
        if any("\0" in word for word in (*self.command, *self.setup, *self.container)):
            raise InvalidArgument("an argument holds a zero byte, which no command line can")

    @property
    def array(self) -> bool:
        """Whether it is a job array."""
        return bool(self.sweep or self.indices)

    def __str__(self) -> str:
        nodes = f"{self.nodes} node{'s' * (self.nodes > 1)}" if not self.scaling else f"{', '.join(map(str, self.scaling))} nodes"
        ranks = f"{self.tasks} rank{'s' * (self.tasks > 1)} of {self.cpus_per_task} core{'s' * (self.cpus_per_task > 1)}"
        gpus = f", {self.gpus_per_node} GPUs a node" if self.gpus_per_node else ""
        return f"{nodes}, {ranks} on each{gpus}, {self.partition or 'the default partition'}, {self.time or 'the usual time'}"

    @property
    def tasks(self) -> int:
        """Ranks on each node."""
        return self.ntasks_per_node or int(self.gpus_per_node.rpartition(":")[2] or 1)


def seconds(time: str) -> int:
    """The seconds of a time limit in any of Slurm's forms. Raises InvalidArgument that lists them.

    >>> seconds("90"), seconds("1:30"), seconds("02:00:00"), seconds("1-12"), seconds("1-00:30")
    (5400, 90, 7200, 129600, 88200)
    """
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise InvalidArgument(f"time {time!r}; valid: {_TIMES}")
    numbers = [int(part) for part in parts]
    if dash:  # from the hours on
        hours, minutes, rest_seconds = numbers + [0] * (3 - len(numbers))
    else:  # one or two numbers end with minutes or with seconds
        hours, minutes, rest_seconds = {1: [0, *numbers, 0], 2: [0, *numbers], 3: numbers}[len(numbers)]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_seconds
    if total < 1:
        raise InvalidArgument(f"time {time!r} is no time at all; valid: {_TIMES}")
    return total


def template(job: Job) -> str:
    """The name of the template that fits. All of them run any edit region; the last question is the weakest."""
    if job.scaling or job.test:
        return "scaling" if job.scaling else "test"
    if job.requeue or job.array:
        return "long" if job.requeue else "array"
    return ("gpu" if job.gpus_per_node else "cpu") + ("_mpirun" if job.mpi == "mpirun" else "")


def render(job: Job) -> str:
    """The batch script. Raises InvalidArgument for a value that a line of #SBATCH cannot hold."""
    return templates.edited(templates.text(template(job)), [*_directives(job), *_variables(job)])


def sweep_points(job: Job) -> list[list[str]]:
    """The arguments of each element of the array: all combinations, the last name changing fastest.

    >>> sweep_points(Job(("train.py",), sweep=(("lr", ("0.1", "0.01")), ("seed", ("1",)))))
    [['--lr=0.1', '--seed=1'], ['--lr=0.01', '--seed=1']]
    """
    columns = [[f"--{name}={value}" for value in values] for name, values in job.sweep]
    return [list(point) for point in itertools.product(*columns)] if columns else []


def _directives(job: Job) -> Iterator[str]:
    indices = job.indices or f"0-{len(sweep_points(job)) - 1}"
    values = {
        "job-name": job.name,
        "nodes": str(job.scaling[0] if job.scaling else job.nodes),
        "gpus-per-node": job.gpus_per_node,
        "ntasks-per-node": str(job.tasks),
        "cpus-per-task": str(job.cpus_per_task),
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "mem": job.mem,
        "output": (job.output.replace("%", "%%") + "/" if job.output else "") + ("%x-%A_%a.out" if job.array else "%x-%j.out"),
        "array": indices + (f"%{job.at_once}" if job.at_once else "") if job.array else "",
    }
    for name, value in values.items():
        if value:
            yield f"#SBATCH --{name}={_in_directive(value)}"
    if job.requeue:
        yield from ("#SBATCH --requeue", "#SBATCH --open-mode=append", f"#SBATCH --signal=B:USR1@{_warning(job)}")
    for option in job.options:
        if not option.startswith("-") or "\n" in option:
            raise InvalidArgument(f"{option!r} is no option of sbatch; valid: one option each, such as --exclusive")
        yield f"#SBATCH {option}"


def _in_directive(value: str) -> str:
    """As sbatch reads it: blanks, # and quotes between double quotes, where a backslash takes the meaning away."""
    if not value.isprintable():
        raise InvalidArgument(f"{value!r} holds what a line of #SBATCH cannot: give it another name")
    return value if re.fullmatch(r"[\w./:,%+=@~-]*", value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _warning(job: Job) -> int:
    return min(_WARNING, seconds(job.time) // 4) if job.time else _WARNING


def _variables(job: Job) -> Iterator[str]:
    if job.requeue:
        yield f"grace={_warning(job) // 2}"
        yield f"restarts={job.restarts}"
    yield f"setup=({_words(job.setup)})"
    yield f"python={shlex.quote(job.python)}"
    yield f"mpi={shlex.quote(job.mpi)}"
    yield f"container=({_words(job.container)})"
    if job.requeue:
        yield f"checkpoint={_word(job.checkpoint)}"
    if job.scaling:
        yield f"nodes=({' '.join(map(str, job.scaling))})"
        yield "results=${1:-scaling-$SLURM_JOB_ID.jsonl}"
    points, taken = sweep_points(job), ""
    if points:
        yield f"sweep=({_words([word for point in points for word in point])})"
        taken = f' "${{sweep[@]:SLURM_ARRAY_TASK_ID*{len(points[0])}:{len(points[0])}}}"'
    if not job.command:
        yield templates.line(templates.text(template(job)), "program=")
        return
    interpreter = "python" if job.container else '"$python"'
    yield f"program=({interpreter} {_words(job.command, _word)}{taken})"


def _words(words: Sequence[str], quote: Callable[[str], str] = shlex.quote) -> str:
    return " ".join(map(quote, words))


def _word(word: str) -> str:
    """Quoted for bash; TASK and RESULTS become what they stand for."""
    pieces = re.split(f"({'|'.join(map(re.escape, _VARIABLES))})", word)
    return "".join(_VARIABLES.get(piece) or shlex.quote(piece) for piece in pieces if piece) or "''"

"""`hpcdl submit`: from the command line and the files of defaults to a job in Slurm's queue."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument
from . import queue, site, templates
from .slurm import RESULTS, TASK, Job, render, sweep_points

__all__ = ["add_arguments", "job_of", "submit"]

_TEST_NODES, _TEST_TIME = 2, "00:10:00"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hpcdl submit`. None of them has a default here: those come from the files, and then from `Job`."""
    add = parser.add_argument
    add("--nodes", type=int, metavar="N", help="nodes (default: 1)")
    add("--ntasks-per-node", type=int, metavar="N", help="ranks on each node (default: one for each GPU, or 1)")
    add("--cpus-per-task", type=int, metavar="N", help="cores, and threads, of each rank (default: 1)")
    add("--gpus-per-node", metavar="[TYPE:]N", help="GPUs of each node; each rank sees one of its own")
    add("--time", metavar="HH:MM:SS", help="the job is ended after that (default: 01:00:00); see --requeue")
    add("--partition", metavar="NAME")
    add("--account", metavar="NAME")
    add("--mem", metavar="SIZE", help="memory of each node, such as 64G")
    add(
        "--array",
        action="append",
        metavar="NAME=V,V…",
        help="one training for each value, as --NAME=V; again: for each combination; or indices: 0-9",
    )
    add("--at-once", type=int, metavar="N", help="so many elements of the array run at a time")
    add("--requeue", action="store_true", default=None, help="save before the time limit or a pre-emption and go on in the next run")
    add("--restarts", type=int, metavar="N", help="of --requeue, at most (default: 100)")
    add(
        "--checkpoint",
        metavar="FOLDER",
        help="of the script, to see that a run has come further (default: what follows its own --checkpoint)",
    )
    add("--mpi", metavar="HOW", help="auto (default), mpirun, or a plug-in of srun: pmix, pmi2, …")
    add("--name", help="of the job and its log (default: the script's)")
    add("--output", metavar="FOLDER", help="of the logs (default: this one)")
    add("--sbatch", dest="options", action="append", metavar="OPTION", help="a further option of sbatch, such as --sbatch=--exclusive")
    add("--test", action="store_true", help=f"{_TEST_NODES} nodes for {_TEST_TIME}: to run before you queue for hours")
    add(
        "--scaling",
        metavar="N,N…",
        help="the same on so many nodes, one job after the other, then a table; without a script, our benchmark",
    )
    add("--dry-run", action="store_true", help="print the batch script, and submit nothing")
    add("--init", action="store_true", help="ask Slurm what there is, and write a file of defaults")
    add("--templates", action="store_true", help="print the folder of the templates, to copy one by hand")
    add("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module, as `python -m` does")
    add("command", nargs=argparse.REMAINDER, metavar="script.py …", help="everything after it is the script's own")


def submit(options: argparse.Namespace) -> int:
    """Render, ask Slurm whether it could run, submit, print the number. Raises InvalidArgument, DataError and LaunchError before that."""
    if options.templates:
        print(templates.folder())
        return 0
    if options.init:
        text, (path, _) = site.first_draft(), site.files()
        site.write(path, text)
        print(f"{text}\nhpcdl: written to {path}; change it as you like")
        return 0
    job = job_of(options)
    script = render(job)
    if options.dry_run:
        sys.stdout.buffer.write(os.fsencode(script))
        return 0
    _writable(Path(job.output or "."))
    print(f"hpcdl: {job}: {queue.validate(job)}", file=sys.stderr)
    if job.requeue and not job.checkpoint:
        print("hpcdl: note: no --checkpoint of the script is known: unless it saves, the next run begins anew", file=sys.stderr)
    if job.array and not job.checkpoint:
        print(f"hpcdl: note: if the script saves, each element needs a folder of its own: --checkpoint run-{TASK}", file=sys.stderr)
    number = queue.submit(script)
    what = f", an array of {len(sweep_points(job)) or job.indices}" if job.array else ""
    log = f"{number}_{(re.search(r'[0-9]+', job.indices) or ['0'])[0]}" if job.array else number
    print(f"hpcdl: job {number}{what}; `hpcdl status {number}`, `hpcdl logs -f {log}`, `hpcdl cancel {number}`", file=sys.stderr)
    print(number)
    return 0


def job_of(options: argparse.Namespace) -> Job:
    """The job that the options and the files of defaults ask for. Raises InvalidArgument and DataError."""
    command = ("-m", *options.module) if options.module is not None else tuple(options.command)
    if command[:1] and command[0] != "-m":
        _script(command)
    if command == ("-m",):
        raise InvalidArgument("-m needs the name of a module")
    _own_options(command)
    named = [name for name in Job.__dataclass_fields__ if getattr(options, name, None) is not None]
    given: dict[str, Any] = {name: getattr(options, name) for name in named}
    told = site.defaults()
    wanted = {**told, **given, "command": command, "options": (*told.get("options", ()), *(options.options or ()))}
    wanted["scaling"] = _numbers(options.scaling) if options.scaling is not None else ()
    if options.array:
        wanted["sweep"], wanted["indices"] = _array(options.array)
    if (wanted.get("requeue") or options.array) and "checkpoint" not in given:
        wanted["checkpoint"] = _own_checkpoint(command)
    needed = {"at_once": ("--array", options.array), "restarts": ("--requeue", wanted.get("requeue"))}
    needed["checkpoint"] = ("--requeue or --array", options.array or wanted.get("requeue"))
    for name in given:
        if name in needed and not needed[name][1]:
            more = "; what is the script's own stands behind it" * (name == "checkpoint")
            raise InvalidArgument(f"--{name.replace('_', '-')} is of use with {needed[name][0]} only, which is not given{more}")
    if not options.array and any(TASK in word for word in command):
        raise InvalidArgument(f"{TASK} stands for the element of an array; it needs --array")
    if options.scaling and command and not any(RESULTS in word for word in command):
        raise InvalidArgument(
            f"the table of --scaling is made of what the script writes: give it {RESULTS}, a file to which its rank 0 adds a line such as"
            ' {"nodes": 2, "ranks": 4, "per_second": 1234.5}'
        )
    if options.scaling and "requeue" not in given:
        wanted["requeue"] = False
    if options.test:
        wanted |= {"nodes": min(_TEST_NODES, wanted.get("nodes", _TEST_NODES)), "time": given.get("time", _TEST_TIME), "requeue": False}
    if not wanted.get("name"):
        stem = Path(command[1] if command[:1] == ("-m",) else command[0]).stem if command else "scaling"
        wanted["name"] = re.sub(r"[^\w.+-]+", "_", stem)
    return Job(**wanted)


def _script(command: tuple[str, ...]) -> None:
    path = Path(command[0])
    if path.is_dir():
        raise InvalidArgument(f"{command[0]!r} is a directory, not a script")
    if not path.is_file():
        raise InvalidArgument(f"no such script: {command[0]!r} (looked for in {os.getcwd()}, where the job will run)")
    if not os.access(path, os.R_OK):
        raise InvalidArgument(f"no permission to read {command[0]!r}")
    if path.suffix not in (".py", ".pyw"):
        text = (
            f"{command[0]!r} is no Python script (.py); for another program copy a template: `hpcdl submit --templates` says where they are"
        )
        raise InvalidArgument(text)


def _own_options(command: tuple[str, ...]) -> None:
    """Say so where the script is given what is an option of `hpcdl submit`: everything behind the script is the script's."""
    known = (
        "--nodes",
        "--ntasks-per-node",
        "--cpus-per-task",
        "--gpus-per-node",
        "--time",
        "--partition",
        "--account",
        "--requeue",
        "--array",
    )
    if found := [word for word in command[1:] if word.split("=")[0] in known]:
        print(f"hpcdl: note: {' '.join(found)} behind {command[0]} is given to the script, not to Slurm", file=sys.stderr)


def _array(texts: list[str]) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], str]:
    """Hyper-parameters and their values, or Slurm's own indices."""
    if "=" not in texts[0] and len(texts) == 1:
        return (), texts[0]
    sweep = []
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", name) or "" in values.split(","):
            raise InvalidArgument(f"--array {text!r}; valid: --array lr=0.1,0.01 (again for a further one), or indices such as --array 0-9")
        sweep.append((name, tuple(values.split(","))))
    names = [name for name, _ in sweep]
    if len(set(names)) < len(names):
        raise InvalidArgument(f"--array names {', '.join(sorted({name for name in names if names.count(name) > 1}))} twice")
    return tuple(sweep), ""


def _numbers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise InvalidArgument(f"--scaling {text!r}; valid: numbers of nodes, ascending: 1,2,4")
    return tuple(map(int, text.split(",")))


def _own_checkpoint(command: tuple[str, ...]) -> str:
    """What the script itself is told by --checkpoint; "" where it is not."""
    for word, following in zip(command, (*command[1:], ""), strict=False):
        if word == "--checkpoint":
            return following
        if word.startswith("--checkpoint="):
            return word.partition("=")[2]
    return ""


def _writable(folder: Path) -> None:
    """Slurm ends a job without a word where its log cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"the folder of the logs, {folder}, cannot be made: {error.strerror}; cure: --output FOLDER") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidArgument(f"no permission to write to {folder.absolute()}, the folder of the logs; cure: --output FOLDER")

"""All-reduce by name and training steps, `hpcdl.horovod.torch` beside a real Horovod, on this machine, in one run, as ratios.

    python benchmarks/horovod_ops.py --json benchmarks/results/horovod_ops.jsonl
    python benchmarks/horovod_ops.py --python A/bin/python --python B/bin/python

Each --python is an environment with PyTorch, an MPI library, and Horovod 0.28.1 built for both (`python -m hpcdl.horovod.build`). The same
lines run on either, after ``import … as hvd``, by 2 and by 4 ranks. An all-reduce: ``hvd.allreduce(x, name=…, op=hvd.Average)``, float32,
blocking; a repetition: fill the array anew, barrier, call; the slowest rank's time counts. Up to 64 KiB, 50 calls in a row and their mean.
Always by the same name, as a training loop does. A training step: zero_grad, forward, loss, backward and step of
``hvd.DistributedOptimizer``, of networks.py's digits perceptron and of wide layers with a tiny batch; steps in a row that take some 50 ms,
one thread a rank.

How it is interleaved. Both have a thread that goes on when nobody calls, and Horovod's cycle time is fixed when it starts, so each has a
job of its own: hpcdl, Horovod with its default, and with each --cycle-time. They are started once and take turns round by round and size
by size; a job that is not being timed is stopped (SIGSTOP). What each would burn is measured and printed.

How it is reported. Of each round the median counts. A ratio is hpcdl's over Horovod's in the same round: below 1, hpcdl is faster. Printed:
the median over the rounds and its quartiles.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import bench
import numpy as np
import peers
from environments import options, parsed, variables
from job import Job, here, serve
from versus import Part, Times, measure, quartiles, results, short, spread

from hpcdl.bench.record import versions
from hpcdl.launch.mpiexec import recognise

OURS, DEFAULT = "hpcdl.horovod", "Horovod, default"
ROLES = ("ours", "theirs")
NETWORKS = ("digits", "wide")
IN_A_ROW = 0.05  # seconds of steps
WARM = 3  # steps before: connections, and names that are agreed on for the first time


class Ours:
    """This package's Horovod interface."""

    def __init__(self, folder: Path) -> None:
        del folder
        import hpcdl.horovod.torch as hvd

        hvd.init()
        from mpi4py import MPI

        self.hvd, self.mpi, self.comm = hvd, MPI, MPI.COMM_WORLD

    def actions(self, nbytes: int) -> peers.Actions:
        """A blocking all-reduce."""
        return _allreduce(self.hvd, nbytes)

    def end(self) -> None:
        """Leave in good order."""
        self.hvd.shutdown()


class Theirs(peers.Horovod):
    """The real one."""

    def actions(self, nbytes: int) -> peers.Actions:
        """The same call."""
        return _allreduce(self.hvd, nbytes)


def _allreduce(hvd: Any, nbytes: int) -> peers.Actions:
    import torch

    own = np.empty(nbytes // 4, np.float32)
    tensor = torch.from_numpy(own)
    return {"allreduce": (lambda: hvd.allreduce(tensor, name=f"{nbytes} bytes", op=hvd.Average), own)}


class Steps:
    """Training on command. Each network is made when it is first asked for, and goes on from there."""

    def __init__(self, side: Any) -> None:
        self._side = side
        self._made: dict[str, tuple[Any, int]] = {}

    def timed(self, name: str, repeat: int) -> dict[str, list[float]]:
        """Seconds of a step on this rank, mean of some in a row; once more than told, and the first is not counted."""
        trainer, row = self._made.get(name) or self._make(name)
        seconds = []
        for _ in range(repeat + 1):
            self._side.comm.Barrier()
            begin = perf_counter()
            for _ in range(row):
                trainer.step()
            seconds.append((perf_counter() - begin) / row)
        return {"step": seconds[1:]}

    def _make(self, name: str) -> tuple[Any, int]:
        import trainers

        comm = self._side.comm
        trainer = trainers.Trainer(comm, trainers.NETWORKS[name], partial(trainers.horovod, self._side.hvd, "none"), bucket=0)
        for _ in range(WARM):
            begin = perf_counter()
            trainer.step()
        row = comm.bcast(max(1, int(IN_A_ROW / (perf_counter() - begin))))
        if len(set(comm.allgather(trainer.digest()))) > 1:
            sys.exit(f"{name}: the ranks' parameters differ after {WARM} steps")
        self._made[name] = trainer, row
        return trainer, row


@contextmanager
def started(python: str, ranks: int, cycles: Sequence[str]) -> Iterator[list[Part]]:
    """The jobs of one environment: ours first."""
    folder = Path(tempfile.mkdtemp(prefix="hpcdl-horovod-ops-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        parts = []
        tuned = [(f"Horovod, cycle {cycle} ms", ROLES[1], cycle) for cycle in cycles]
        for label, role, cycle in [(OURS, ROLES[0], ""), (DEFAULT, ROLES[1], ""), *tuned]:
            place = folder / str(len(parts))
            place.mkdir()
            job = Job(here(python, ranks, variables(cycle)), [__file__, role], ranks, place, f"{python} ({label}, {ranks} ranks)")
            stack.callback(job.close)
            parts.append(Part(job, label))
        yield parts


def compare(times: dict[Any, Times], key: str) -> list[dict[str, Any]]:
    """Our time over that of each Horovod, by size or network; `key` says which."""
    found = []
    for item, by_label in times.items():
        middle = {label: [statistics.median(each) for each in rounds] for label, rounds in by_label.items()}
        for label in [label for label in middle if label != OURS]:
            ratios = [mine / theirs for mine, theirs in zip(middle[OURS], middle[label], strict=True)]
            found.append({key: item, "peer": label, **quartiles(ratios)})
    return found


def show(record: dict[str, Any]) -> None:
    """The run as tables: times, and ratios, of all-reduces and of steps."""
    host = record["host"]
    where = f"{record['versions']['mpi']}, {record['ranks']} ranks, {host['cpu']}, {host['cores']} cores, load {host['load']} before"
    names: dict[str, tuple[str, Callable[[Any], str]]] = {"bytes": ("all-reduce", bench.size_name), "network": ("a training step", str)}
    for key, (what, name) in names.items():
        rows = [found for found in record["results"] if key in found]
        items = list(dict.fromkeys(found[key] for found in rows))
        labels = list(dict.fromkeys(found["what"] for found in rows))
        cells = {(found["what"], found[key]): f"{1e3 * found['median']:.4g}" for found in rows}
        ratios = {(found["peer"], found[key]): spread(found) for found in record["ratios"] if key in found}
        head = ["", *map(name, items)]
        bench.show(f"{where}: {what}, ms, median", head, [[label, *(cells[label, item] for item in items)] for label in labels])
        beside = [[f"{OURS} / {label}", *(ratios[label, item] for item in items)] for label in labels if label != OURS]
        bench.show("ratios, median (quartiles); below 1: hpcdl is faster", head, beside)
    for what, share in record["idle"].items():
        print(f"idle, {what}: {share:.1%} of a core per rank (stopped while others are timed)")


def run(args: Any, ranks: int) -> None:
    """Measure and tell for one number of ranks: three quarters of the time for all-reduces, the rest for steps."""
    seconds = args.seconds / len(args.ranks)
    with ExitStack() as stack:
        groups = [stack.enter_context(started(python, ranks, args.cycle_time)) for python in args.python]
        calls = measure(groups, args.sizes, args.rounds, 0.75 * seconds)
        steps = measure(groups, args.networks, args.rounds, 0.25 * seconds)
    for group, by_size, by_network in zip(groups, calls, steps, strict=True):
        found = [*results(by_size, "bytes"), *results(by_network, "network")]
        rounds = [len(next(iter(times.values()))[OURS]) for times in (by_size, by_network)]
        facts = {"ranks": ranks, "rounds": rounds, "ratios": [*compare(by_size, "bytes"), *compare(by_network, "network")]}
        idle = {part.label: short(part.job.idle) for part in group}
        known = {**group[0].job.hello["versions"], **group[-1].job.hello["versions"]}
        record = {**bench.line("horovod_ops", found, **facts, idle=idle), "versions": known}
        show(record)
        bench.append(args.json, record)


def rank(role: str, path: Path) -> None:
    """One rank of a job: `horovod_ops.py ROLE SOCKET`."""
    import torch

    torch.set_num_threads(1)
    side: Any = {"ours": Ours, "theirs": Theirs}[role](path.parent)
    library = str(recognise(side.mpi.Get_library_version()))
    hello = {"rank": side.comm.rank, "versions": versions(library, ["torch", "horovod"])}
    steps = Steps(side)

    def time(what: int | str, repeat: int) -> dict[str, list[float]]:
        return steps.timed(what, repeat) if isinstance(what, str) else peers.timed(side, what, repeat)

    serve(str(path), hello, {"time": time})
    side.end()


def main() -> None:
    """Measure what the options say."""
    if len(sys.argv) == 3 and sys.argv[1] in ROLES:
        rank(sys.argv[1], Path(sys.argv[2]))
        return
    parser = options(__doc__, seconds=320)
    text = f"whose steps are timed (default: {' '.join(NETWORKS)})"
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help=text)
    args = parsed(parser)
    for ranks in args.ranks:
        run(args, ranks)


if __name__ == "__main__":
    main()

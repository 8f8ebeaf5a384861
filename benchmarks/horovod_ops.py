"""All-reduce by name, `hpcdl.horovod.torch` beside a real Horovod: blocking, on this machine, in one run, as ratios.

    python benchmarks/horovod_ops.py --json benchmarks/results/horovod_ops.jsonl
    python benchmarks/horovod_ops.py --python A/bin/python --python B/bin/python

Each --python is an environment with PyTorch, an MPI library, and Horovod 0.28.1 built for both (`python -m hpcdl.horovod.build`). The same
two lines run on either: ``import … as hvd`` and ``hvd.allreduce(x, name=…, op=hvd.Average)``, float32, by 2 and by 4 ranks. A repetition:
fill the array anew, barrier, call; the slowest rank's time counts. Up to 64 KiB, 50 calls in a row and their mean. Always by the same
name, as a training loop does.

How it is interleaved. Both have a thread that goes on when nobody calls, and Horovod's cycle time is fixed when it starts, so each has a
job of its own: hpcdl, Horovod with its default, and with each --cycle-time. They are started once and take turns round by round and size
by size; a job that is not being timed is stopped (SIGSTOP). What each would burn is measured and printed.

How it is reported. Of each round the median counts. A ratio is hpcdl's over Horovod's in the same round: below 1, hpcdl is faster. Printed:
the median over the rounds and its quartiles.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bench
import numpy as np
import peers
from job import Job, here, serve
from versus import SIZES, Part, Times, _milliseconds, _python, _short, _spread, measure, quartiles, results

from hpcdl.bench.record import versions
from hpcdl.launch.mpiexec import recognise

OURS, DEFAULT = "hpcdl.horovod", "Horovod, default"
ROLES = ("ours", "theirs")


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
            root = str(Path(__file__).parents[1])
            environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
            environ.pop("HOROVOD_CYCLE_TIME", None)
            if cycle:
                environ["HOROVOD_CYCLE_TIME"] = cycle
            job = Job(here(python, ranks, environ), [__file__, role], ranks, place, f"{python} ({label}, {ranks} ranks)")
            stack.callback(job.close)
            parts.append(Part(job, label))
        yield parts


def compare(times: dict[int, Times]) -> list[dict[str, Any]]:
    """Our time over that of each Horovod, by size."""
    found = []
    for nbytes, by_label in times.items():
        middle = {label: [statistics.median(each) for each in rounds] for label, rounds in by_label.items()}
        for label in [label for label in middle if label != OURS]:
            ratios = [mine / theirs for mine, theirs in zip(middle[OURS], middle[label], strict=True)]
            found.append({"bytes": nbytes, "peer": label, **quartiles(ratios)})
    return found


def show(record: dict[str, Any]) -> None:
    """The run as tables: times, and ratios."""
    sizes = sorted({found["bytes"] for found in record["results"]})
    labels = list(dict.fromkeys(found["what"] for found in record["results"]))
    cells = {(found["what"], found["bytes"]): f"{1e3 * found['median']:.4g}" for found in record["results"]}
    host = record["host"]
    where = f"{host['cpu']}, {host['cores']} cores, load {host['load']} before"
    head = ["", *map(bench.size_name, sizes)]
    title = f"{record['versions']['mpi']}, {record['ranks']} ranks, {where}: ms, median"
    bench.show(title, head, [[label, *(cells[label, n] for n in sizes)] for label in labels])
    ratios = {(found["peer"], found["bytes"]): _spread(found) for found in record["ratios"]}
    rows = [[f"{OURS} / {label}", *(ratios[label, n] for n in sizes)] for label in labels if label != OURS]
    bench.show("ratios, median (quartiles); below 1: hpcdl is faster", head, rows)
    for what, share in record["idle"].items():
        print(f"idle, {what}: {share:.1%} of a core per rank (stopped while others are timed)")


def run(args: Any, ranks: int) -> None:
    """Measure and tell for one number of ranks."""
    with ExitStack() as stack:
        groups = [stack.enter_context(started(python, ranks, args.cycle_time)) for python in args.python]
        found = measure(groups, args.sizes, args.rounds, args.seconds / len(args.ranks))
    for group, times in zip(groups, found, strict=True):
        facts = {"ranks": ranks, "rounds": len(times[args.sizes[0]][OURS]), "ratios": compare(times)}
        idle = {part.label: _short(part.job.idle) for part in group}
        known = {**group[0].job.hello["versions"], **group[-1].job.hello["versions"]}
        record = {**bench.line("horovod_ops", results(times), **facts, idle=idle), "versions": known}
        show(record)
        bench.append(args.json, record)


def rank(role: str, path: Path) -> None:
    """One rank of a job: `horovod_ops.py ROLE SOCKET`."""
    side: Any = {"ours": Ours, "theirs": Theirs}[role](path.parent)
    library = str(recognise(side.mpi.Get_library_version()))
    hello = {"rank": side.comm.rank, "versions": versions(library, ["torch", "horovod"])}
    serve(str(path), hello, {"time": lambda nbytes, repeat: peers.timed(side, nbytes, repeat)})
    side.end()


def main() -> None:
    """Measure what the options say."""
    if len(sys.argv) == 3 and sys.argv[1] in ROLES:
        rank(sys.argv[1], Path(sys.argv[2]))
        return
    parser = bench.Parser(__doc__)
    text = "an environment's interpreter; may be given several times (default: this one)"
    parser.add_argument("--python", type=_python, action="append", help=text)
    parser.add_argument("--ranks", nargs="+", type=bench.count, default=[2, 4], help="default: 2 4")
    parser.add_argument("--sizes", nargs="+", type=bench.size, default=SIZES, metavar="SIZE", help="default: 1KiB 64KiB 1MiB … 64MiB")
    text = "of Horovod beside its default, in ms (default: 0.1)"
    parser.add_argument("--cycle-time", nargs="*", type=_milliseconds, default=["0.1"], metavar="MS", help=text)
    parser.add_argument("--rounds", type=bench.count, default=10, help="default: 10")
    parser.add_argument("--seconds", type=bench.count, default=240, help="time for all, starting the jobs not counted (default: 240)")
    args = parser.parse_args()
    args.python = args.python or [sys.executable]
    args.sizes = sorted(set(args.sizes))
    for ranks in args.ranks:
        run(args, ranks)


if __name__ == "__main__":
    main()

"""Training steps of PyTorch: hpcdl.torch against DDP over gloo and Horovod. Side by side on this machine, in one run, as ratios.

    python benchmarks/train_torch.py --json benchmarks/results/train_torch.jsonl
    python benchmarks/train_torch.py --python A/bin/python --python B/bin/python
    python benchmarks/train_torch.py --hosts 4 --rate 200mbit                     # needs what benchmarks/netlab needs (Linux, root)

Each --python is an environment with an MPI library, and with whatever peers are to be measured; what is missing is said and left out.
Four networks (networks.py): the digits network of `hpcdl demo`, a convolutional one, a small GPT, and wide layers with a tiny batch, where
communication is more than half of the step. A step: zero_grad, forward, loss, backward, optimizer, with data that is there already; one
thread a rank. Door 1 is hpcdl.torch.DistributedDataParallel, "DDP over hpcdl" is torch's own on hpcdl's backend. Buckets are of 4 MiB for
all (--bucket); DDP over gloo is measured with its default, 25 MiB, too. DDP has gradient_as_bucket_view=True; Horovod has its default
settings, and in a job more for each --cycle-time.

How it is interleaved. Whatever coexists in one process does, and takes turns: some steps of one way in a row, as many as take 0.1 s or one,
then of the next; each round begins with another way. Horovod has jobs of its own, because its thread wakes in every cycle even if nobody
calls it. A job that is not being timed is stopped (SIGSTOP). How much each would burn is measured and printed. The slowest rank counts.

How it is reported. Times are medians over the rounds. A ratio is one way's time over another's in the same round, below 1 it is faster; its
median over the rounds, and its quartiles. Communication is the share of a step by which it is longer than the same step of all ranks
without any. CPU seconds are of all threads of a process, mean of the ranks. Rivals of door 1 are, on one node, all other ways; between
hosts, those with the same wire format, and for int8 those that send float32. The fastest of them counts.

That all do the same work is checked: the first gradient's norm is the same in all ways within what their wire format loses, and after the
first steps the parameters are bitwise equal on all ranks.

Memory is measured with the wide network, in a job of its own for each way: how much a process grows at most, parameters included, and at
most in a later step, when all is arranged.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import bench
from environments import interpreter, milliseconds, variables
from job import Job, Start, here
from netlab.lab import Lab, LabError, bits
from train_figures import PEER, Times, compare, show

PROGRAM = Path(__file__).with_name("trainers.py")
NETWORKS = ("digits", "convnet", "gpt", "wide")
HEAVY = "wide"  # memory is measured with it
BLOCK = 0.1  # seconds of steps in a row
MOST = 50
ENOUGH = 5  # rounds that are made however long they take
LOSES = {"none": 1e-4, "fp16": 1e-2, "int8": 5e-2}  # of the gradient's norm, at most


class Part(NamedTuple):
    """A job and what is put behind the names of its ways."""

    job: Job
    name: str
    suffix: str = ""

    def ask(self, *words: Any) -> list[dict[str, Any]]:
        """What each rank answers, by way."""
        with self.job.awake():
            answers = self.job.ask(*words)
        return [{name + self.suffix: found for name, found in answer.items()} for answer in answers]


class Site:
    """Where jobs run: on this machine, or on the hosts of a lab."""

    def __init__(self, args: argparse.Namespace, ranks: int, lab: Lab | None, folder: Path) -> None:
        self.args, self.ranks, self.lab, self.folder = args, ranks, lab, folder
        self._started = 0

    @contextmanager
    def job(self, role: str, **settings: str) -> Iterator[Job]:
        """A job of that role; settings: variables of its environment."""
        self._started += 1
        folder = self.folder / str(self._started)
        folder.mkdir()
        what = f"{sys.executable} ({role}, {self.ranks} ranks)"
        job = Job(self._start(settings), [str(PROGRAM), role], self.ranks, folder, what)
        try:
            if self.lab is not None and job.hello["nodes"] != self.ranks:
                raise LabError(f"the ranks are on {job.hello['nodes']} hosts; wanted {self.ranks}")
            yield job
        finally:
            job.close()

    def _start(self, settings: dict[str, str]) -> Start:
        environ = {**variables(), "OMP_NUM_THREADS": "1", **settings}
        lab = self.lab
        if lab is None:
            return here(sys.executable, self.ranks, environ)

        def start(words: list[str], log: IO[bytes]) -> subprocess.Popen[Any]:
            from hpcdl.launch.mpiexec import launcher, library

            env = {**launcher(library()).environment(), **environ}
            return lab.popen(lab.command([sys.executable, *words]), env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

        return start


@contextmanager
def started(site: Site) -> Iterator[list[Part]]:
    """The jobs that are timed: the first has all but Horovod."""
    with ExitStack() as stack:
        parts = [Part(stack.enter_context(site.job("together")), "hpcdl and DDP in one process")]
        if "Horovod" not in parts[0].job.hello["missing"]:
            parts.append(Part(stack.enter_context(site.job("horovod")), "Horovod"))
            for cycle in site.args.cycle_time:
                suffix = f", cycle {cycle} ms"
                parts.append(Part(stack.enter_context(site.job("horovod", HOROVOD_CYCLE_TIME=cycle)), f"Horovod{suffix}", suffix))
        yield parts


def prepare(parts: list[Part], network: str, bucket: int) -> dict[str, dict[str, Any]]:
    """Have all trainers made. What each way is; ends the program where one does not do its work."""
    ways: dict[str, dict[str, Any]] = {}
    for part in parts:
        answers = part.ask("prepare", network, bucket)
        for name, way in answers[0].items():
            ways[name] = {"family": way["family"], "wire": way["wire"], "gradient": way["gradient"]}
            if way["family"] != "alone" and len({answer[name]["digest"] for answer in answers}) > 1:
                raise SystemExit(f"train_torch.py: error: {network}, {name}: the ranks' parameters differ after some steps")
    right = ways[PEER]["gradient"]
    for name, way in ways.items():
        if way["family"] != "alone" and abs(way["gradient"] / right - 1) > LOSES[way["wire"]]:
            text = f"the norm of the gradient is {way['gradient']:.7g}, with {PEER} {right:.7g}"
            raise SystemExit(f"train_torch.py: error: {network}, {name}: {text}")
    return ways


def measure(parts: list[Part], rounds: int, seconds: float) -> tuple[int, Times, Times]:
    """Steps in a row; seconds and CPU seconds per step, of the slowest rank and of the mean rank, by way and round."""

    def one_round(steps: int, number: int) -> dict[str, tuple[float, float]]:
        found = {}
        for turn in range(len(parts)):
            answers = parts[(number + turn) % len(parts)].ask("time", steps, number)
            for name in answers[0]:
                spent, cpu = zip(*(answer[name] for answer in answers), strict=True)
                found[name] = max(spent), statistics.fmean(cpu)
        return found

    first = one_round(2, 0)
    steps = max(1, min(MOST, int(BLOCK / statistics.median(spent for spent, _ in first.values()))))
    times: Times = {name: [] for name in first}
    cpu: Times = {name: [] for name in first}
    begin = time.monotonic()
    for number in range(rounds):
        if number >= ENOUGH and time.monotonic() - begin > seconds:
            break
        for name, (spent, burnt) in one_round(steps, number).items():
            times[name].append(spent)
            cpu[name].append(burnt)
    return steps, times, cpu


def memory(site: Site, parts: list[Part]) -> dict[str, dict[str, int]]:
    """Bytes by which a process grows in each way, `most` and in a `later` step, mean of the ranks; empty where the system does not tell.

    Why glibc is told a threshold: it raises it by itself and then keeps what the program has given back.
    """
    found = {}
    for part, role in [(parts[0], "together"), *((part, "horovod") for part in parts[1:2])]:
        for name in part.job.hello["ways"]:
            if site.args.memory is not None and name not in site.args.memory:
                continue
            with site.job(role, MALLOC_MMAP_THRESHOLD_=str(1 << 17)) as job, job.awake():
                grown = job.ask("memory", name, HEAVY, site.args.bucket)
            if None in grown:
                return {}
            found[name] = {
                key: round(statistics.fmean(values)) for key, values in zip(("most", "later"), zip(*grown, strict=True), strict=True)
            }
    return found


def run(args: argparse.Namespace, ranks: int, lab: Lab | None) -> None:
    """Measure and tell for one number of ranks."""
    from networks import NETWORKS as MADE

    with tempfile.TemporaryDirectory(prefix="hpcdl-train-") as folder:
        site = Site(args, ranks, lab, Path(folder))
        with started(site) as parts:
            hello, last = parts[0].job.hello, parts[-1].job.hello
            idle = {part.name: float(f"{part.job.idle:.3g}") for part in parts}
            grown = memory(site, parts) if HEAVY in args.networks else {}
            for name in args.networks:
                ways = prepare(parts, name, args.bucket)
                steps, times, cpu = measure(parts, args.rounds, args.seconds)
                for part in parts:
                    with part.job.awake():
                        part.job.ask("drop")
                network = MADE[name]
                parameters = sum(p.numel() for p in network.build().parameters())
                facts = {"network": name, "parameters": parameters, "batch": network.samples(ranks), "ranks": ranks}
                facts |= {"hosts": ranks if lab else 1, "rate": lab.rate if lab else None, "bucket_bytes": args.bucket}
                facts |= {"steps": steps, "rounds": len(times[PEER]), "idle": idle, "missing": hello["missing"]}
                facts["memory"] = grown if name == HEAVY else {}
                line = bench.line("train_torch", compare(ways, times, cpu, lab is not None), **facts)
                record = {**line, "versions": {**hello["versions"], **last["versions"]}}
                show(record)
                bench.append(args.json, record)
    for what, share in idle.items():
        print(f"idle, {what}: {share:.1%} of a core per rank (stopped while others are timed)")
    for what, why in hello["missing"].items():
        print(f"left out: {what}: {why}")


def main() -> int:
    """Measure what the options say."""
    parser = bench.Parser(__doc__)
    interpreters = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    text = "an environment's interpreter; may be given several times, and they come one after the other (default: this one)"
    for each in (parser, interpreters):
        each.add_argument("--python", action="append", type=interpreter, help=text)
    parser.add_argument("--ranks", nargs="+", type=bench.count, default=[2, 4], help="on this machine (default: 2 4)")
    parser.add_argument("--hosts", type=bench.count, metavar="N", help="measure between so many hosts of a lab, one rank on each")
    parser.add_argument("--rate", default="200mbit", help="of each host, each way, as tc writes it (default: 200mbit)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--bucket", type=bench.size, default=4 << 20, help="size of a bucket (default: 4MiB)")
    text = "of Horovod beside its default, in ms (default: 0.1)"
    parser.add_argument("--cycle-time", nargs="*", type=milliseconds, default=["0.1"], metavar="MS", help=text)
    parser.add_argument("--rounds", type=bench.count, default=60, help="at most (default: 60)")
    text = f"time for the rounds of a network; {ENOUGH} are made in any case (default: 30)"
    parser.add_argument("--seconds", type=bench.count, default=30, help=text)
    text = "ways whose memory is measured, in a job for each (default: all; none if none is named)"
    parser.add_argument("--memory", nargs="*", metavar="WAY", help=text)
    args = parser.parse_args()
    if args.python:
        rest = [sys.argv[0], *interpreters.parse_known_args()[1]]
        return max(subprocess.call([python, *rest], env=variables()) for python in args.python)
    if not find_spec("torch"):
        parser.error("torch is not installed here; cure: pip install hpcdl[torch], or --python of an environment that has it")
    try:
        bits(args.rate)
        if args.hosts:
            with Lab(args.hosts, args.rate) as lab:
                run(args, args.hosts, lab)
        else:
            for ranks in args.ranks:
                run(args, ranks, None)
    except LabError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A real Slurm of four nodes on this machine, from `with` to its end: submit to it, wait, read, kill a node.

It stands in a lab of benchmarks/netlab: nodes have names, memory and interfaces of their own as on a cluster, ports meet nobody's, and the
kernel ends every process of it with this one, whatever happens. `together`: all nodes are names of one host, as on one big machine.
"""

from __future__ import annotations

import functools
import os
import re
import site
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.environment import for_children, time_limit
from harness.lab import lab_module
from harness.parts import SEARCHED
from harness.programs import CHECKOUT

NODES = 4
CPUS = 8
GPUS = 4
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE")
PATIENCE = time_limit() - 20  # seconds; what ends then says more than the harness would
#: Short times, so that a test need not wait: for a node that is silent, for tasks that ignore SIGTERM, for a credential of a requeued job.
_CONF = """
ClusterName=hpcdl
SlurmctldHost={head}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmctldTimeout=15
SlurmdTimeout=10
KillWait=5
InactiveLimit=0
MinJobAge=3600
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
SlurmdParameters=config_overrides
"""


class Cluster:
    """The nodes h1 … h4 (`together`: node1 … node4) of CPUS cores and GPUS pretended GPUs each.

    Partitions: `main`, and `urgent`, whose jobs pre-empt those of `main`.
    """

    def __init__(self, together: bool = False) -> None:
        self.lab = lab_module().Lab(1 if together else NODES + 1, rate="")
        self.head = self.lab.names[-1]
        self.nodes = [f"node{i}" if together else f"h{i}" for i in range(1, NODES + 1)]
        self._together = together
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        self.lab.__enter__()
        try:
            self._write()
            self._start_munge()
            self._daemon("slurmctld", self.head, "slurmctld", "-D", "-c")
            for node in self.nodes:
                self._start_node(node)
            self.wait_until(lambda: self.idle() == NODES, "all nodes are idle")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.lab.__exit__()
        for daemon in self._daemons.values():
            daemon.wait()

    @property
    def folder(self) -> Path:
        """Where its files lie; removed at the end."""
        return Path(self.lab.folder) / "slurm"

    def run(self, *words: object, cwd: Path, timeout: float = PATIENCE, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command on the host that people log in to; the finished process."""
        with self.started(*words, cwd=cwd, **environ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"{words} did not end within {timeout:g} s\n{out}{err}\n{self.logs()}") from None
            return subprocess.CompletedProcess(words, process.returncode, out, err)

    def started(self, *words: object, cwd: Path, **environ: str) -> subprocess.Popen[str]:
        """The same, under way."""
        line = ["env", "-u", "TMPDIR", "-C", str(cwd), *map(str, words)]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.lab.popen(line, host=self.head, env=self._environ(environ), text=True, **pipes)  # type: ignore[no-any-return]

    def idle(self) -> int:
        """How many nodes wait for work."""
        out = self.run("sinfo", "-h", "-t", "idle", "-o", "%D", cwd=self.folder).stdout
        return sum(map(int, out.split()))

    def submit(self, script: Path | str, *options: str, cwd: Path, **environ: str) -> Job:
        """The job that sbatch makes of a file, or of a text, which is written to `cwd`."""
        if isinstance(script, str):
            path = cwd / f"job-{time.monotonic_ns()}.sbatch"
            path.write_text(script, encoding="utf-8")
            script = path
        done = self.run("sbatch", "--parsable", *options, script, cwd=cwd, **environ)
        assert done.returncode == 0, f"sbatch {script}: {done.stdout}{done.stderr}\n{self.logs()}"
        return Job(self, done.stdout.strip().split(";")[0])

    def wait_until(self, condition: Any, what: str, timeout: float = PATIENCE, job: Job | None = None) -> None:
        """Return once the condition holds; AssertionError with all logs if it does not come to hold."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:g} s: {what}\n{job.all() if job else ''}{self.logs()}")
            time.sleep(0.25)

    def logs(self, lines: int = 40) -> str:
        """The last lines of every daemon's log."""
        texts = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in sorted((self.folder / "log").glob("*"))}
        return "\n".join(f"--- {name}\n" + "\n".join(text.splitlines()[-lines:]) for name, text in texts.items())

    def cut_off(self, node: str) -> None:
        """As by a power failure: the node falls silent, and all that ran there is gone."""
        self._link(node, "down")
        keeper = int((Path(self.lab.folder) / node / "pid").read_text(encoding="ascii"))
        line = f'for p in /proc/[0-9]*; do [ "$(readlink $p/ns/uts)" != "$(readlink /proc/{keeper}/ns/uts)" ] || echo ${{p#/proc/}}; done'
        inside = subprocess.run([*self._into(), "sh", "-c", line], check=True, capture_output=True, text=True).stdout.split()
        subprocess.run([*self._into(), "kill", "-9", *(pid for pid in inside if int(pid) != keeper)], check=False)
        self._daemons.pop(node).wait()

    def bring_back(self, node: str) -> None:
        """The node starts again."""
        self._link(node, "up")
        self._start_node(node)
        self.wait_until(lambda: self.idle() == NODES, f"{node} is idle again, and all others")

    def _into(self) -> list[str]:
        return lab_module().into(int((Path(self.lab.folder) / "pid").read_text(encoding="ascii")))  # type: ignore[no-any-return]

    def _link(self, node: str, state: str) -> None:
        switch = int((Path(self.lab.folder) / "pid").read_text(encoding="ascii"))
        subprocess.run(["nsenter", "-t", str(switch), "-n", "ip", "link", "set", node, state], check=True)

    def _write(self) -> None:
        for name in ("state", "log", "munge", *(f"{kind}/{node}" for kind in ("spool", "tmp") for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        os.chmod(self.folder / "munge", 0o755)
        gpus = [self.folder / f"gpu{i}" for i in range(GPUS)]
        for gpu in gpus:
            os.mknod(gpu, 0o666 | 0o020000, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n", encoding="ascii")
        head = f"{self.head}(127.0.0.1)" if self._together else self.head
        conf = _CONF.format(folder=self.folder, head=head)
        for i, node in enumerate(self.nodes, 1):
            place = f"NodeHostname={self.head} NodeAddr=127.0.0.1 Port={17000 + i}" if self._together else f"NodeAddr={node}"
            conf += f"NodeName={node} {place} CPUs={CPUS} RealMemory=4000 Gres=gpu:{GPUS}\n"
        everywhere = f"Nodes={','.join(self.nodes)} MaxTime=1-0 State=UP"
        conf += f"PartitionName=main {everywhere} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60\n"
        conf += f"PartitionName=urgent {everywhere} PriorityTier=2 PreemptMode=OFF\n"
        (self.folder / "slurm.conf").write_text(conf, encoding="ascii")

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(os.urandom(1024))
        os.chmod(folder / "key", 0o600)
        files = (
            f"--{option}={folder}/{name}"
            for option, name in (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("seed-file", "seed"))
        )
        self._daemon(
            "munged", self.head, "munged", "--foreground", "--force", "--num-threads=2", f"--log-file={self.folder}/log/munged", *files
        )
        self.wait_until((folder / "socket").exists, "munged is there", 20)

    def _start_node(self, node: str) -> None:
        self._daemon(node, self.head if self._together else node, "slurmd", "-D", "-N", node)

    def _daemon(self, name: str, host: str, *words: str) -> None:
        null: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        line = ["env", "-u", "TMPDIR", "-C", str(self.folder), *words]
        self._daemons[name] = self.lab.popen(line, host=host, env=self._environ({}), **null)

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        """What a shell of a user has: this Python's commands, the checkout, and what no launcher and no test has set."""
        kept = {
            name: value for name, value in for_children().items() if not re.match(r"SLURM_|SBATCH_|PRTE_MCA_|OMPI_MCA_|HPCDL_REQUIRE", name)
        }
        checkout = "" if CHECKOUT in site.getsitepackages() else CHECKOUT  # an installed one is there in every environment
        path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
        first = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PYTHONPATH": path, "PATH": f"{Path(sys.executable).parent}:{SEARCHED}"}
        return {**kept, **first, **more}


class Job:
    """A job in the queue, or out of it."""

    def __init__(self, cluster: Cluster, number: str) -> None:
        self.cluster, self.number = cluster, number

    def fields(self) -> dict[str, str]:
        """What `scontrol show job` says; of a job in several parts, of the first."""
        told = self.cluster.run("scontrol", "-o", "show", "job", self.number, cwd=self.cluster.folder).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", told.split("\n")[0]))

    @functools.cached_property
    def output(self) -> Path:
        """The file that the job prints into."""
        return Path(self.fields()["StdOut"])

    def log(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""

    def wait(self, *states: str, timeout: float = PATIENCE) -> dict[str, str]:
        """The fields, once the job has one of these states (none given: has ended). AssertionError if it ends otherwise."""
        found: dict[str, str] = {}

        def there() -> bool:
            found.update(self.fields())
            state = found["JobState"]
            assert state in (states or ENDED) or state not in ENDED, (
                f"job {self.number} is {state}, not {states}\n{self.all()}{self.cluster.logs()}"
            )
            return state in (states or ENDED)

        self.cluster.wait_until(there, f"job {self.number} is {' or '.join(states) or 'at its end'}", timeout, self)
        return found

    def says(self, text: str, timeout: float = PATIENCE, times: int = 1) -> str:
        """The log, once `text`, a regular expression, is in it so often."""
        self.cluster.wait_until(
            lambda: len(re.findall(text, self.log())) >= times, f"{text!r} in the log of job {self.number}", timeout, self
        )
        return self.log()

    def signal(self, *words: str) -> None:
        """`scancel` with these options."""
        done = self.cluster.run("scancel", *words, self.number, cwd=self.cluster.folder)
        assert done.returncode == 0, done.stderr

    def all(self) -> str:
        """Everything known of it, for a test that failed."""
        return f"--- job {self.number}: {self.fields()}\n--- its log\n{self.log()}\n"

"""Hosts with names, memory and interfaces of their own on one machine, and a real limit on the rate of each.

A lab is a namespace of processes. Its first process holds a bridge, the switch; each host is one more, with namespaces of its own for
network, host name, mounts and shared memory. A host's outgoing and incoming traffic each pass a token bucket of the given rate.

Why nothing has a name outside of the lab, and its first process ends as soon as its keeper does: then the kernel removes all of it,
processes, mounts and interfaces, also after a crash, and labs cannot meet.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hpcdl.errors import HpcdlError
from hpcdl.launch.mpiexec import launcher, library

__all__ = ["Lab", "LabError", "bits", "find", "into", "why_not"]

_NET = "10.77.0"
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_BURST = 5e-3  # seconds of sending at the full rate that a bucket holds
_MOST = 64

#: Builds the lab, as its first process; ends with standard input. 1: folder, 2: number of hosts, 3: what tc is told.
#: A host is left as `sleep`. /sys shows the interfaces of the namespace that mounted it; containers have a read-only one, without cgroups.
_BUILD = r"""
set -eu; folder=$1 hosts=$2 limit=$3
ip link add lab type bridge; ip link set lab up
for number in $(seq "$hosts"); do
  host=h$number; mkfifo "$folder/$host/ready"
  unshare --net --uts --ipc --mount --propagation private sh -euc '
    hostname "$1"; mount -t tmpfs -o size=50% shm /dev/shm; mount --bind "$2/hosts" /etc/hosts; ip link set lo up
    mount --rbind /sys/fs/cgroup /mnt; mount -t sysfs sysfs /sys; mount --move /mnt /sys/fs/cgroup
    echo yes > "$2/$1/ready"; exec sleep infinity' sh $host "$folder" < /dev/null > /dev/null &
  pid=$!; { read -r answer || exit 1; } < "$folder/$host/ready"; rm "$folder/$host/ready"
  ip link add $host type veth peer name eth0 netns $pid; ip link set $host master lab up
  nsenter -t $pid -n ip address add NET.$number/24 dev eth0; nsenter -t $pid -n ip link set eth0 up
  [ -z "$limit" ] || { tc qdisc add dev $host root $limit; nsenter -t $pid -n tc qdisc add dev eth0 root $limit; }
  echo $pid > "$folder/$host/pid"
done
echo ready; exec cat > /dev/null
""".replace("NET", _NET)

#: Runs a command on a host, called in the lab. Takes options and host as ssh does, so that launchers can use it in its place.
_ON = """#!/bin/sh
while :; do case "$1" in -[bcDEeFIiJLlmOopQRSWw]) shift 2;; -*) shift;; *) break;; esac; done
host=${1#*@}; shift
[ -s "%(folder)s/$host/pid" ] || { echo "netlab: no host $host in this lab; known: %(names)s" >&2; exit 255; }
export TMPDIR="%(folder)s/$host" NETLAB_HOST="$host" NETLAB_HOSTS="%(names)s" NETLAB_RATE="%(rate)s"
exec nsenter -t "$(cat "%(folder)s/$host/pid")" -n -u -i -m --wd="$PWD" -- /bin/sh -c "$*"
"""


class LabError(HpcdlError):
    """The lab cannot be built, or is not there."""


def bits(rate: str) -> int:
    """Bits per second of a rate as tc writes it.

    >>> bits("200mbit"), bits("2.5gbit")
    (200000000, 2500000000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?bit)", rate)
    if not match or float(match[1]) <= 0:
        raise LabError(f"rate {rate!r}: give a number above 0 and a unit ({', '.join(_UNITS)}), as in 200mbit")
    return int(float(match[1]) * _UNITS[match[2]])


class Lab:
    """Hosts h1 … hN with addresses 10.77.0.1 … N, from `with` to its end. `rate`: of each host, each way, as tc writes it; "" for no limit.

    Raises LabError, which says what is missing or what went wrong.
    """

    def __init__(self, hosts: int, rate: str = "200mbit", name: str | None = None) -> None:
        if not 1 <= hosts <= _MOST:
            raise LabError(f"{hosts} hosts: give 1 to {_MOST}")
        self.names = [f"h{number}" for number in range(1, hosts + 1)]
        self.rate = rate
        self.folder = _folder(name or f"run-{os.getpid()}-{time.monotonic_ns() % 10**6}")
        self._bits = bits(rate) if rate else 0
        self._switch: subprocess.Popen[str] | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Lab:
        _check_tools()
        self._lock = _occupy(self.folder)
        try:
            names = "\n".join(f"{_NET}.{number} {name}" for number, name in enumerate(self.names, 1))
            (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}\n", encoding="ascii")
            texts = {"folder": self.folder, "names": " ".join(self.names), "rate": self.rate}
            self.agent.write_text(_ON % texts, encoding="utf-8")
            self.agent.chmod(0o755)
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._switch is not None:
            with suppress(subprocess.TimeoutExpired, OSError):
                self._switch.communicate(timeout=10)  # the end of its input ends the lab's first process, and the kernel all others there
            self._switch.kill()
            self._switch.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    @property
    def agent(self) -> Path:
        """A program that runs a command on a host: ``on h2 hostname``. A launcher may take it for ssh."""
        return self.folder / "on"

    def command(self, words: Sequence[str], ranks_per_host: int = 1) -> list[str]:
        """The command line, to be run on the first host, that runs `words` on every host under MPI. Raises LaunchError."""
        found = launcher(library())
        ranks = ranks_per_host * len(self.names)
        file = self.folder / f"hostfile-{ranks_per_host}"
        if "Open MPI" in found.family.name:
            file.write_text("".join(f"{name} slots={ranks_per_host}\n" for name in self.names), encoding="ascii")
            agent = "--prtemca plm_ssh_agent" if found.family.name == "Open MPI" else "--mca plm_rsh_agent"
            flags = [*agent.split(), str(self.agent), "--hostfile", str(file)]
        else:
            file.write_text("".join(f"{name}:{ranks_per_host}\n" for name in self.names), encoding="ascii")
            flags = ["-launcher", "ssh", "-launcher-exec", str(self.agent), "-f", str(file)]
        start = found.command(ranks, environ={})
        return [start[0], *flags, *start[1:], *words]

    def popen(self, words: Sequence[str], host: str = "h1", env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a host, as subprocess.Popen would here. It ends with the lab at the latest."""
        assert self._switch is not None
        return subprocess.Popen([*into(self._switch.pid), str(self.agent), host, shlex.join(words)], env=env, **options)

    def run(self, words: Sequence[str], ranks_per_host: int = 1, **options: Any) -> int:
        """Run `words` under MPI over all hosts; the launcher's exit code."""
        env = launcher(library()).environment()
        return self.popen(self.command(words, ranks_per_host), env=env, **options).wait()

    def _build(self) -> None:
        for name in self.names:
            (self.folder / name).mkdir()
        limit = ""
        if self._bits:
            burst = max(1 << 16, int(self._bits / 8 * _BURST))
            limit = f"tbf rate {self._bits}bit burst {burst} limit {2 * burst}"
        spaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        command = ["unshare", *spaces, "sh", "-c", _BUILD, "sh", str(self.folder), str(len(self.names)), limit]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._switch = subprocess.Popen(command, start_new_session=True, **pipes)  # Ctrl-C is for the keeper
        assert self._switch.stdout is not None and self._switch.stderr is not None
        if self._switch.stdout.readline() != "ready\n":
            said = " ".join(self._switch.stderr.read().split())
            raise LabError(f"cannot build it: {said}. Cure: run as root, in a container that may make namespaces (privileged)")
        (self.folder / "pid").write_text(f"{self._switch.pid}\n", encoding="ascii")


def into(switch: int) -> list[str]:
    """The beginning of a command that is to see a lab's processes, from the process that built it."""
    return ["nsenter", "-t", str(switch), "-m", f"--pid=/proc/{switch}/ns/pid_for_children", f"--wd={os.getcwd()}", "--"]


def why_not() -> str:
    """Why no lab can be built here; "" if one can. Builds one."""
    try:
        with Lab(1):
            return ""
    except LabError as error:
        return str(error)


def _check_tools() -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise LabError("a lab needs Linux and root, for namespaces and rate limits. Cure: run it as root, or in a privileged container")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({_TOOLS[tool] for tool in missing}))
        raise LabError(f"not on the path: {', '.join(missing)}. Cure: install {packages} (apt-get install {packages})")


def _folder(name: str) -> Path:
    if not re.fullmatch(r"[a-z0-9-]{1,30}", name):
        raise LabError(f"lab name {name!r}: give up to 30 of a-z, 0-9 and -")
    return Path(tempfile.gettempdir()) / f"netlab-{name}"


def find(name: str) -> tuple[Path, int]:
    """The folder of a lab that is up, and the process that keeps it. Raises LabError; removes what a crash left."""
    folder = _folder(name)
    if not folder.is_dir():
        known = sorted(path.name[7:] for path in folder.parent.glob("netlab-*"))
        raise LabError(f"no lab {name!r}; known: {', '.join(known) or 'none'}. Cure: netlab up {name}")
    lock = _free_lock(folder)
    if lock is None:
        return folder, int((folder / "keeper").read_text(encoding="ascii"))
    shutil.rmtree(folder)
    lock.close()
    raise LabError(f"lab {name!r} had crashed: its hosts had ended with it, its folder is now removed. Cure: netlab up {name}")


def _occupy(folder: Path) -> IO[str]:
    """The lock of a new lab's folder. What a crashed keeper left there is removed: only files are ever left."""
    folder.mkdir(mode=0o755, exist_ok=True)
    lock = _free_lock(folder)
    if lock is None:
        raise LabError(f"lab {folder.name[7:]!r} is up already. Cure: another name, or netlab down {folder.name[7:]}")
    for path in folder.iterdir():
        if path.name != "keeper":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lock.truncate(0)
    print(os.getpid(), file=lock, flush=True)
    return lock


def _free_lock(folder: Path) -> IO[str] | None:
    """The lock, held, or None where a living keeper holds it."""
    lock = (folder / "keeper").open("a", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock

"""The lab of hosts on one machine: real placement, a real rate limit, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from harness.environment import for_children
from harness.lab import NETLAB, lab_module, why_no_lab

import hpcdl

pytestmark = pytest.mark.outer

CHECKOUT = str(Path(hpcdl.__file__).parents[1])

PROGRAM = """
import json, socket, sys, time
import numpy as np
import hpcdl

world = hpcdl.init()
x = np.full(1 << 20, world.rank + 1, np.float32)
world.broadcast(np.zeros(1 << 20, np.float32))  # opens connections
world.barrier()
begin = time.perf_counter()
world.allreduce(x, collective="ring")
world.barrier()
mine = [world.node, world.nodes, world.local_size, socket.gethostname(), float(x[-1]), time.perf_counter() - begin]
rows = world.allgather(np.array([json.dumps(mine)], "S200"))
if world.rank == 0:
    open(sys.argv[1], "w").write(json.dumps([json.loads(row) for row in rows.tolist()]))
"""


@pytest.fixture(scope="module")
def folder():
    """Where the labs of these tests have their files; not pytest's, whose long names do not fit into the address of a socket."""
    with tempfile.TemporaryDirectory(prefix="labs-") as made:
        yield Path(made)


@pytest.fixture
def traces(require, folder, monkeypatch):
    """Skips where no lab can be built. Afterwards interfaces and mounts are as before, and neither process nor file is left."""
    require("netlab", why_no_lab())
    monkeypatch.setenv("TMPDIR", str(folder))

    def here():
        return sorted(os.listdir("/sys/class/net")), Path("/proc/mounts").read_text()

    before = here()
    yield
    assert here() == before
    wait_for(lambda: not running(str(folder)) and not knowing(folder))  # what was killed is a moment in going
    assert not list(folder.iterdir())


def running(text):
    """Processes with `text` in their command line; several words are its beginning."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if line.startswith(text) if " " in text else text in line:
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def knowing(folder):
    """Processes whose TMPDIR is in `folder`: whatever else was started for a lab of these tests."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={folder}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def environment():
    return {**for_children(), "PYTHONPATH": os.pathsep.join(filter(None, [CHECKOUT, os.environ.get("PYTHONPATH")]))}


def netlab(*words, **options):
    command = [sys.executable, str(NETLAB), *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=environment(), **options)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("hosts", "each"), [(2, 2), (3, 1)])
def test_ranks_are_placed_and_the_rate_is_real(traces, require, tmp_path, hosts, each):
    require("mpi")
    program, out = tmp_path / "program.py", tmp_path / "out.json"
    program.write_text(PROGRAM)
    done = netlab("run", "--hosts", hosts, "--ranks", each, "--rate", "100mbit", program, out)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())
    places = [row[:4] for row in rows]
    assert places == [[node, hosts, each, f"h{node + 1}"] for node in range(hosts) for _ in range(each)]
    total = hosts * each
    assert {row[4] for row in rows} == {total * (total + 1) / 2}
    assert min(row[5] for row in rows) > 0.8 * 2 * (total - 1) / total * (4 << 20) * 8 / 100e6  # seconds; no more may go through


def test_two_labs_side_by_side_stay_until_they_are_taken_down(traces):
    for name in ("test-a", "test-b"):
        done = netlab("up", name, "--hosts", 2)
        assert done.returncode == 0 and "2 hosts" in done.stdout, done.stderr
    again = netlab("up", "test-a")
    assert again.returncode == 2 and "lab 'test-a' is up already" in again.stderr
    assert netlab("on", "test-a", "h2", "hostname").stdout == "h2\n"
    assert "10.77.0.2/24" in netlab("on", "test-b", "h2", "ip address show eth0").stdout
    assert netlab("on", "test-b", "h1", "ls /sys/class/net").stdout.split() == ["eth0", "lo"]
    assert "no host h3 in this lab; known: h1 h2" in netlab("on", "test-b", "h3", "true").stderr
    for name in ("test-a", "test-b"):
        assert netlab("down", name).returncode == 0
    gone = netlab("down", "test-a")
    assert gone.returncode == 2 and "no lab 'test-a'" in gone.stderr


def test_a_crashed_keeper_takes_its_hosts_with_it(traces, folder):
    assert netlab("up", "test-c", "--hosts", 2).returncode == 0
    sleeper = subprocess.Popen([sys.executable, NETLAB, "on", "test-c", "h2", "sleep", "77.7"], env=environment())
    wait_for(lambda: running("sleep 77.7"))
    os.kill(int((folder / "netlab-test-c" / "keeper").read_text()), signal.SIGKILL)
    assert sleeper.wait(30) != 0
    wait_for(lambda: not running(str(folder)))
    assert "had crashed" in netlab("on", "test-c", "h1", "true").stderr
    assert netlab("up", "test-c", "--hosts", 1).returncode == 0
    assert netlab("down", "test-c").returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_the_lab(traces, number, code):
    command = [sys.executable, NETLAB, "run", "--hosts", "1", "--plain", "--", "sh", "-c", "sleep 88.8; true"]
    run = subprocess.Popen(command, env=environment(), start_new_session=True)
    wait_for(lambda: running("sleep 88.8"))
    os.kill(run.pid, number)
    assert run.wait(30) == code
    assert not running("sleep 88.8")


def test_plain_command_and_its_exit_code(traces):
    done = netlab("run", "--hosts", 3, "--rate", "", "--plain", "--", "sh", "-c", "echo $NETLAB_HOSTS; hostname; exit 7")
    assert done.returncode == 7 and done.stdout == "h1 h2 h3\nh1\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "no command given"),
        (["run", "--rate", "fast", "true"], "rate 'fast': give a number above 0 and a unit"),
        (["run", "--hosts", "0", "true"], "0 hosts: give 1 to 64"),
        (["up", "UP/"], "lab name 'UP/'"),
        (["down", "test-none"], "no lab 'test-none'"),
    ],
)
def test_bad_words(words, said):
    done = netlab(*words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_what_is_missing_is_named(monkeypatch):
    if os.geteuid() == 0:
        monkeypatch.setenv("PATH", "/nowhere")
        assert "not on the path: ip, tc, unshare, nsenter. Cure: install iproute2 util-linux" in lab_module().why_not()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs Linux and root" in lab_module().why_not()


def test_hosts(traces, require, tmp_path):
    require("mpi")
    out = tmp_path / "hosts.jsonl"
    options = ["--size", "1MiB", "--repeat", "1", "--codecs", "none", "int8", "--rate", "500mbit", "--json", str(out)]
    command = [sys.executable, NETLAB.parent / "hosts.py", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=environment())
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, out.read_text().splitlines())
    assert [(line["hosts"], line["ranks"], line["rate"]) for line in (first, second)] == [(4, 4, "500mbit"), (2, 4, "500mbit")]
    rings = {found["codec"]: found for found in first["results"] if found["collective"] == "ring"}
    assert set(rings) == {"none", "int8"} and all(found["counted_right"] for found in rings.values())
    assert rings["int8"]["wire"] < 0.26 * rings["none"]["wire"]
    assert all(found["bound"] > 0 and found["of_bound"] > 0.8 for found in first["results"])

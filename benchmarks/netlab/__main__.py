"""A small network on one machine, with a real limit on each host's rate: build it, run commands in it, remove it.

    python benchmarks/netlab run --hosts 4 --rate 200mbit train.py             # 4 ranks, one on each host
    python benchmarks/netlab run --hosts 2 --ranks 2 -- python x.py --option   # 4 ranks, two on each host
    python benchmarks/netlab run --plain -- sh -c 'echo $NETLAB_HOSTS'          # any command, on the first host only

    python benchmarks/netlab up my --hosts 3    # stays up until: python benchmarks/netlab down my
    python benchmarks/netlab on my h2 ip address

`run` builds the lab, runs the command and removes the lab, whatever happens, and exits with the command's code. The launcher is that of
the MPI library which this Python loads. Several labs may stand side by side. Needs Linux, root, and the commands ip, tc (iproute2),
unshare and nsenter (util-linux). Hosts share the machine's cores: at 200 Mbit/s two cores keep up with four hosts.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import NoReturn

from lab import Lab, LabError, find, into

from hpcdl.errors import HpcdlError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(args: argparse.Namespace) -> int:
    """A lab for one command."""
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words:
        raise LabError("run: no command given. Cure: netlab run --hosts 4 train.py")
    if words[0].endswith(".py") or words[0] == "-m":
        words = [sys.executable, *words]
    with Lab(args.hosts, args.rate) as lab:
        return lab.popen(words).wait() if args.plain else lab.run(words, args.ranks)


def up(args: argparse.Namespace) -> int:
    """Start a keeper in the background; return once the lab stands."""
    command = [sys.executable, __file__, "keep", args.name, "--hosts", str(args.hosts), "--rate", args.rate]
    keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert keeper.stdout is not None
    folder = keeper.stdout.readline().strip()
    if not folder:
        return keeper.wait()
    print(f"{args.hosts} hosts, {args.rate or 'no limit'} each, in {folder}. A shell on the first: netlab on {args.name} h1 bash")
    return 0


def keep(args: argparse.Namespace) -> int:
    """Hold a lab until a signal ends this process."""
    with Lab(args.hosts, args.rate, args.name) as lab:
        print(lab.folder, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        while True:
            signal.pause()


def down(args: argparse.Namespace) -> int:
    """End a lab's keeper, and return once all is gone."""
    folder, keeper = find(args.name)
    os.kill(keeper, signal.SIGTERM)
    while folder.exists():
        time.sleep(0.02)
    return 0


def on(args: argparse.Namespace) -> int:
    """Run a command on a host of a lab that is up."""
    folder, _ = find(args.name)
    switch = int((folder / "pid").read_text(encoding="ascii"))
    line = shlex.join(args.command) if len(args.command) > 1 else "".join(args.command) or "sh"
    return subprocess.call([*into(switch), str(folder / "on"), args.host, line])


def _end(number: int, frame: object) -> NoReturn:
    del frame
    for other in _ENDING:
        signal.signal(other, signal.SIG_IGN)  # nothing stops the clearing up
    raise SystemExit(128 + number)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="netlab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for action in (run, up, keep, down, on):
        verb = verbs.add_parser(action.__name__, help=action.__doc__, allow_abbrev=False)
        verb.set_defaults(action=action)
        if action is not run:
            verb.add_argument("name", nargs="?" if action is not on else None, default="lab", help="of the lab (default: lab)")
        if action in (run, up, keep):
            verb.add_argument("--hosts", type=int, default=4, metavar="N", help="how many (default: 4)")
            verb.add_argument("--rate", default="200mbit", help="each way, as tc writes it; '' for no limit (default: 200mbit)")
        if action is run:
            verb.add_argument("--ranks", type=int, default=1, metavar="N", help="on each host (default: 1)")
            verb.add_argument("--plain", action="store_true", help="run the command once, on the first host, without MPI")
        if action is on:
            verb.add_argument("host")
        if action in (run, on):
            verb.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    for number in _ENDING:
        signal.signal(number, _end)
    try:
        return int(args.action(args))
    except HpcdlError as error:
        print(f"netlab: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

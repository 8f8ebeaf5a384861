"""`hpcdl demo`: checks the options, then trains here if this is one of several ranks already, else on ranks that it starts."""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

from ..arrays.gpu import why_no_gpu
from ..errors import HpcdlError, InvalidArgument
from ..launch.env import place
from ..launch.run import run
from ..start import init
from . import options
from .train import train

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hpcdl demo` to `parser`."""
    parser.add_argument("-n", type=int, metavar="RANKS", help=f"ranks to start on this machine (default: {options.DEFAULT_RANKS})")
    options.add_options(parser)


def main(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code: 0, 1 where replicas differ, 2 for bad options or data, else that of the failed rank."""
    here = place()
    return _start(args) if here is None or here.size == 1 else _join(args)


def _start(args: argparse.Namespace) -> int:
    """Train on ranks of this machine that we start."""
    ranks = options.DEFAULT_RANKS if args.n is None else args.n
    refusal = _refusal(args, ranks)
    if refusal:
        return _refuse(refusal)
    if sys.stdout.isatty():
        args.bar = os.get_terminal_size(sys.stdout.fileno()).columns
    try:
        return run(["-m", "hpcdl.demo.train", *options.as_command(args)], ranks=ranks)
    except HpcdlError as error:  # nothing was started
        return _refuse(f"error: {error}")


def _join(args: argparse.Namespace) -> int:
    """Train as one of the ranks that mpirun or srun has started. Rank 0 judges the options for all, so that it is heard before all end.

    Progress comes as lines: Open MPI gives its ranks pseudo-terminals, so they cannot know where the output goes.
    """
    world = init()
    refusal = _refusal(args, world.size) if world.rank == 0 else ""
    if refusal:
        _refuse(refusal)
    return 2 if world.broadcast(np.array([bool(refusal)]))[0] else train(args)


def _refusal(args: argparse.Namespace, ranks: int) -> str:
    """Why the demo cannot run like this on `ranks` ranks; "" if it can."""
    try:
        if ranks < 1:
            raise InvalidArgument(f"-n {ranks}: give at least 1 rank")
        if args.n not in (None, ranks):
            raise InvalidArgument(f"-n {args.n}: this is already a job of {ranks} ranks; leave -n out")
        options.check(args)
    except HpcdlError as error:
        return f"error: {error}"
    trouble = why_no_gpu() if args.device == "cuda" else ""
    return f"error: --device cuda: {trouble}" if trouble else ""


def _refuse(message: str) -> int:
    print(f"hpcdl demo: {message}", file=sys.stderr, flush=True)
    return 2

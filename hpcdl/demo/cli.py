"""`hpcdl demo`: checks the options, then trains here if this is a rank already, else on ranks that it starts."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import HpcdlError, InvalidArgument
from ..launch.env import place
from . import options

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hpcdl demo` to `parser`."""
    parser.add_argument("-n", type=int, metavar="RANKS", help=f"ranks to start on this machine (default: {options.DEFAULT_RANKS})")
    options.add_options(parser)


def main(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code: 0, 1 where replicas differ, 2 for bad options or data, else that of the failed rank."""
    here = place()
    inside = here is not None and here.size > 1
    ranks = args.n if args.n is not None else here.size if inside and here is not None else options.DEFAULT_RANKS
    try:
        if ranks < 1:
            raise InvalidArgument(f"-n {ranks}: give at least 1 rank")
        if inside and here is not None and ranks != here.size:
            raise InvalidArgument(f"-n {ranks}: this is already a job of {here.size} ranks; leave -n out")
        options.check(args)
    except HpcdlError as error:
        return _refuse(f"error: {error}", here is None or here.rank == 0)
    if args.device == "cuda":
        return _refuse("--device cuda: not measured on a GPU yet; use --device cpu", here is None or here.rank == 0)
    if inside:
        from .train import train

        return train(args)  # with lines: Open MPI gives ranks a pseudo-terminal of their own, so they cannot know where the output goes
    from ..launch.run import run

    if sys.stdout.isatty():
        args.bar = os.get_terminal_size(sys.stdout.fileno()).columns
    try:
        return run(["-m", "hpcdl.demo.train", *options.as_command(args)], ranks=ranks)
    except HpcdlError as error:  # nothing was started
        return _refuse(f"error: {error}", True)


def _refuse(message: str, first_rank: bool) -> int:
    if first_rank:
        print(f"hpcdl demo: {message}", file=sys.stderr)
    return 2

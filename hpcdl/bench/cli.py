"""`hpcdl bench`: parses the options, then measures here if this is one of several ranks already, else on ranks that it starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..launch.env import place
from ..launch.machine import cores
from ..launch.run import run
from . import allreduce, codecs, overlap, scaling, train
from .options import Parser, count, file

__all__ = ["add_verbs", "join", "start"]


class _Verb(NamedTuple):
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], int]
    alone: bool = False  # one process is enough


VERBS = {
    "allreduce": _Verb("all-reduce beside the MPI library's own, by size", allreduce.add_arguments, allreduce.main),
    "codecs": _Verb("casts and codecs beside a plain copy, in one process", codecs.add_arguments, codecs.main, alone=True),
    "overlap": _Verb("how much communication a real backward pass hides", overlap.add_arguments, overlap.main),
    "scaling": _Verb("speed-up and efficiency from runs on 1, 2, 4, … nodes, as a table", scaling.add_arguments, scaling.main, alone=True),
    "train": _Verb("steps per second of a whole training, by ranks and codec", train.add_arguments, train.main),
}


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Add `allreduce`, `codecs`, `overlap`, `scaling` and `train` with their options to `parser`."""
    verbs = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True, dest="what", parser_class=Parser)
    for name, verb in VERBS.items():
        inner = verbs.add_parser(name, help=verb.text, description=verb.text)
        inner.add_argument("--plot", type=file, metavar="FILE.png", help="draw it there; needs matplotlib: pip install 'hpcdl[bench]'")
        if not verb.alone:
            inner.add_argument("-n", type=count, metavar="RANKS", help="ranks to start on this machine (default: its cores, 2 to 4)")
        inner.set_defaults(refuse=inner.error)
        verb.add_arguments(inner)


def start(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Measure what `args` say, which were parsed from `words`; returns the exit code."""
    here, verb = place(), VERBS[args.what]
    if here is not None and here.size > 1:
        return _measure(args)
    if verb.alone:
        return verb.main(args)
    outer = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    outer.add_argument("-n")
    ranks = args.n or max(2, min(4, cores()))
    return run(["-m", "hpcdl.bench", *outer.parse_known_args(list(words))[1]], ranks=ranks)


def join(words: Sequence[str]) -> int:
    """Measure as one of the ranks that somebody has started, be it the only one."""
    parser = argparse.ArgumentParser(prog="hpcdl bench", allow_abbrev=False)
    add_verbs(parser)
    return _measure(parser.parse_args(words))


def _measure(args: argparse.Namespace) -> int:
    here, verb = place(), VERBS[args.what]
    if here is not None and getattr(args, "n", None) not in (None, here.size):
        args.refuse(f"-n {args.n}: this is already a job of {here.size} ranks; leave -n out")
    if verb.alone and here is not None and here.rank:
        return 0
    return verb.main(args)

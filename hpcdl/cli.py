"""The command line: ``hpcdl run | demo | bench | doctor``. Each verb is a few lines here; the work is done where it belongs.

Nothing heavy is imported before its verb is called, so ``hpcdl --help`` is quick and starts no MPI.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from . import __version__
from .errors import HpcdlError

__all__ = ["main"]

Verb = Callable[[argparse.Namespace], int]
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code. An error of this package becomes one line and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="hpcdl", description="Distributed training over MPI.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hpcdl {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _run(verbs)
    _demo(verbs, arguments)
    _bench(verbs, arguments)
    _doctor(verbs)
    try:
        options = parser.parse_args(arguments)
        verb: Verb = options.verb
        return verb(options)
    except HpcdlError as error:
        print(f"hpcdl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _verb(verbs: Verbs, name: str, text: str, verb: Verb, usage: str | None = None) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
    parser.set_defaults(verb=verb)
    return parser


def _run(verbs: Verbs) -> None:
    def verb(options: argparse.Namespace) -> int:
        from .launch.run import run

        module = ["-m", *options.module] if options.module is not None else []
        env = None
        if options.as_horovod:
            from .horovod.alias import as_horovod

            env = as_horovod(os.environ)
        return run([*module, *options.command], options.ranks, tag_output=options.tag_output, env=env)

    usage = "hpcdl run -n RANKS [--tag-output] [--as-horovod] (script.py | -m module | program) [its own arguments …]"
    parser = _verb(verbs, "run", "run a script on several ranks of this machine", verb, usage)
    parser.add_argument("-n", "-np", dest="ranks", type=_at_least_one, required=True, metavar="RANKS", help="number of ranks")
    parser.add_argument("--tag-output", action="store_true", help="begin each line of output with its rank: [2] …")
    parser.add_argument(
        "--as-horovod", action="store_true", help="answer `import horovod` from this package: a script of Horovod's runs as it is"
    )
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module, as `python -m` does")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="script.py …", help="everything after it is the script's own")


def _demo(verbs: Verbs, arguments: list[str]) -> None:
    def verb(options: argparse.Namespace) -> int:
        from .demo.cli import main as demo

        return int(demo(options))

    parser = _verb(verbs, "demo", "train a small network on real data, on several ranks", verb)
    if arguments[:1] == ["demo"]:
        from .demo.cli import add_arguments

        add_arguments(parser)


def _bench(verbs: Verbs, arguments: list[str]) -> None:
    def verb(options: argparse.Namespace) -> int:
        from .bench.cli import start

        return start(options, arguments[1:])

    parser = _verb(verbs, "bench", "measure all-reduce, codecs, overlap or a training on this machine or cluster", verb)
    if arguments[:1] == ["bench"]:
        from .bench.cli import add_verbs

        add_verbs(parser)


def _doctor(verbs: Verbs) -> None:
    def verb(options: argparse.Namespace) -> int:
        from .launch.doctor import doctor

        return doctor(json_file=options.json)

    parser = _verb(verbs, "doctor", "say what is here, whether training would work, and how to mend what would not", verb)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; without FILE: to the output, instead")


def _at_least_one(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"the number of ranks must be a whole number, got {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"the number of ranks must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())

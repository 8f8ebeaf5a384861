"""The command line: ``hpcdl run | submit | status | logs | cancel | demo | bench | doctor``.

Each verb is a few lines here; the work is done where it belongs.

Nothing heavy is imported before its verb is called, so ``hpcdl --help`` is quick and starts no MPI.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from . import __version__
from .errors import HpcdlError

__all__ = ["main"]

Verb = Callable[[argparse.Namespace], int]
Verbs: TypeAlias = "argparse._SubParsersAction[Any]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code. An error of this package becomes one line and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="hpcdl", description="Distributed training over MPI.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hpcdl {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _run(verbs)
    _submit(verbs, arguments)
    _follow(verbs)
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


class _Parser(argparse.ArgumentParser):
    """An unknown option is told with the valid ones."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As the class above does; ends with exit code 2 where something is left over."""
        found, rest = super().parse_known_args(args, namespace)
        if rest and self._subparsers is None:
            valid = ", ".join(action.option_strings[-1] for action in self._actions if action.option_strings)
            self.error(f"unknown option {rest[0]}; valid: {valid}")
        return found, rest


def _verb(verbs: Verbs, name: str, text: str, verb: Verb, usage: str | None = None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
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


def _submit(verbs: Verbs, arguments: list[str]) -> None:
    def verb(options: argparse.Namespace) -> int:
        from .launch.submit import submit

        return submit(options)

    usage = "hpcdl submit [options] (script.py | -m module) [its own arguments …]"
    parser = _verb(verbs, "submit", "put a training into Slurm's queue", verb, usage)
    if arguments[:1] == ["submit"]:
        from .launch.submit import add_arguments

        add_arguments(parser)


def _follow(verbs: Verbs) -> None:
    def verb(options: argparse.Namespace) -> int:
        from .launch import follow

        does: Verb = getattr(follow, options.does)
        return does(options)

    texts = {"status": "how a job is doing", "logs": "the last lines of a job's log", "cancel": "end a job"}
    for name, text in texts.items():
        parser = _verb(verbs, name, f"{text} in Slurm's queue", verb)
        parser.add_argument("job", metavar="JOB", help="its number; of an array's element 1234_0")
        parser.set_defaults(does=name)
        if name == "logs":
            parser.add_argument("-f", "--follow", action="store_true", help="and what comes, until the job has ended")
            parser.add_argument("-n", "--lines", type=_at_least_one, default=20, metavar="N", help="so many lines (default: 20)")


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
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())

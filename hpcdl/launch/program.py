"""Become the user's program: a script or module exactly as ``python`` would run it, or any executable.

An exception, a non-zero ``sys.exit`` or Ctrl-C is recorded for `hpcdl run`, told to the other ranks, and ends this rank at once:
an orderly shutdown would wait in MPI.Finalize for ranks that wait for this one.
"""

from __future__ import annotations

import builtins
import faulthandler
import importlib.machinery
import importlib.util
import io
import os
import signal
import sys
import time
import traceback
import types
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from . import records

__all__ = ["Me", "become"]

_FAREWELL = "hpcdl.transport.last_words"  # tells the other ranks; only where the script has loaded it
_WAIT_FOR_OTHERS = {"error": 0.5, "exit": 1.0}  # seconds in which ranks that fail alike may say so
_WAIT_AFTER_FAREWELL = 2.0


@dataclass(frozen=True)
class Me:
    """This rank, and the folder for its records where there is one."""

    rank: int
    size: int
    where: Path | None


@dataclass(frozen=True)
class _Failure:
    """How the program failed. `kind` is error, exit or signal; `text` is shown in full, `summary` in one line."""

    kind: str
    code: int
    text: str
    summary: str


def become(kind: str, target: str, args: list[str], me: Me) -> NoReturn:
    """Run `target` as this process and end it with the program's exit code."""
    try:
        if kind == "program":
            os.execvp(target, [target, *args])
        _prepare(me)
        _execute(*(_script(target) if kind == "script" else _module(target)), args)
        sys.exit(0)
    except SystemExit as error:
        code = _exit_code(error)
        if code == 0:
            raise
        text = "" if error.code is None or isinstance(error.code, int) else str(error.code)
        _end(_Failure("exit", code, text, f"exit code {code}"), error, me)
    except KeyboardInterrupt as error:
        _end(_Failure("signal", 128 + signal.SIGINT, "", "interrupted"), error, me)
    except BaseException as error:
        _end(_Failure("error", 1, _traceback(error) + _cure(error), _one_line(error)), error, me)


def _prepare(me: Me) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)  # whole lines, with `python -u` too: ranks share the terminal
    if me.where is not None and not faulthandler.is_enabled():
        faulthandler.enable((me.where / f"fault.{me.rank}").open("w", encoding="utf-8"))


def _script(path: str) -> tuple[Any, dict[str, Any]]:
    """Code of a script and the names that `python script` gives its `__main__`; its folder is searched first."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    sys.argv[0] = path
    with io.open_code(os.path.abspath(path)) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    return code, {"__file__": path, "__cached__": None, "__loader__": loader, "__package__": None, "__spec__": None}


def _module(name: str) -> tuple[Any, dict[str, Any]]:
    """Code of a module and the names that `python -m module` gives its `__main__`; the current folder is searched first."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd())
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    code = spec.loader.get_code(spec.name) if spec is not None and hasattr(spec.loader, "get_code") else None  # type: ignore[union-attr]
    if spec is None or code is None:
        raise SystemExit(f"no module named {name!r} that can be run; it is searched for in {os.getcwd()} and in sys.path")
    sys.argv[0] = spec.origin or name
    names = {"__file__": spec.origin, "__cached__": spec.cached, "__loader__": spec.loader, "__package__": spec.parent, "__spec__": spec}
    return code, names


def _execute(code: Any, names: dict[str, Any], args: list[str]) -> None:
    main = types.ModuleType("__main__")
    main.__dict__.update(names, __builtins__=builtins)
    sys.modules["__main__"] = main
    sys.argv[1:] = args
    exec(code, main.__dict__)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _traceback(error: BaseException) -> str:
    """The traceback as `python script` prints it: without this file's frames."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb))


def _cure(error: BaseException) -> str:
    """What the traceback does not say."""
    name = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if name.split(".")[0] != "horovod":
        return ""
    return (
        "cure: `hpcdl run --as-horovod` runs a script of Horovod's without Horovod; under another launcher, python -m hpcdl.horovod does\n"
    )


def _one_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()[-1]


def _end(failure: _Failure, error: BaseException, me: Me) -> NoReturn:
    """Record the failure, tell the other ranks, let those that fail alike say so, and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if me.where is None:
        sys.stderr.write(f"rank {me.rank} of {me.size}: {failure.text or failure.summary}\n")
    else:
        records.write(me.where, "failure", me.rank, **asdict(failure))
    wait = _WAIT_FOR_OTHERS.get(failure.kind, 0.0)
    if (last_words := sys.modules.get(_FAREWELL)) is not None and failure.kind == "error":
        last_words.farewell(error)
        wait = _WAIT_AFTER_FAREWELL
    deadline = time.monotonic() + wait
    while me.where is not None and time.monotonic() < deadline and not records.all_ended(me.where, me.size):
        time.sleep(0.02)
    if "logging" in sys.modules:
        sys.modules["logging"].shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(failure.code)

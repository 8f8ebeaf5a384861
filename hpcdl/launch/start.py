"""The words that start the ranks of a Slurm job: which launcher fits the MPI library, tried in the job's first seconds.

    words=$(python -m hpcdl.launch.start auto [container words…] python) || exit
    readarray -t launch <<<"$words"
    "${launch[@]}" python train.py

It prints one word a line. Why it is tried, not only looked up: a plug-in that does not fit starts N worlds of one rank, with exit code 0,
and one that Slurm lists may fail to load.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from ..errors import LaunchError
from . import mpiexec
from .facts import plugins
from .tryout import MARK

__all__ = ["MPIRUN", "candidates", "main", "ranks"]

MPIRUN = "mpirun"
_PATIENCE = 120.0  # seconds for a trial: Python may come from a slow file system
_AFTER_TERM = 10.0
_SHOWN = 6  # last lines of a launcher that failed

# What a library may start with, the best first: plug-ins of srun, and its own launcher. A name also stands for its versions: pmix for
# pmix_v4. Why MPICH's own comes before pmi2: to that plug-in MPICH 5 speaks PMI-1, in lines of which Slurm reads 1,024 bytes, and the line
# with a rank's address may be longer, depending on what lay on the stack before. The next start may fail where the trial has gone well.
_WAYS = {
    "Open MPI": ("pmix", MPIRUN),
    "Open MPI 4": ("pmix", "pmi2", MPIRUN),
    "MPICH": ("cray_shasta", MPIRUN, "pmi2", "pmix"),
    "Intel MPI": ("pmi2", "pmix", MPIRUN),
    "MVAPICH": ("pmi2", "pmix", MPIRUN),
    "Cray MPICH": ("cray_shasta", "pmi2", "pmix", MPIRUN),
}


def ranks(environ: Mapping[str, str] = os.environ) -> int:
    """The number of tasks of the Slurm job, over all parts of a heterogeneous one. Raises LaunchError outside of a job."""
    if "SLURM_JOB_ID" not in environ:
        text = "this is not inside a Slurm job: submit the script with `sbatch`; on one machine, `hpcdl run -n 4 train.py` starts ranks"
        raise LaunchError(text)
    parts = [f"_HET_GROUP_{i}" for i in range(int(environ.get("SLURM_HET_SIZE") or 0))]
    return sum(_tasks(environ, part) for part in parts or [""])


def _tasks(environ: Mapping[str, str], part: str) -> int:
    told = environ.get(f"SLURM_NTASKS{part}")
    if told:
        return int(told)
    per_node = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get(f"SLURM_TASKS_PER_NODE{part}", "1"))
    return sum(int(tasks) * int(times or 1) for tasks, times in per_node)


def candidates(
    mpi: str, family: mpiexec.Family, listed: Sequence[str], launcher: mpiexec.Launcher | None, environ: Mapping[str, str]
) -> Iterator[list[str]]:
    """Launchers that may fit, the likeliest first. `mpi`: auto, mpirun, or a plug-in's name; listed: the plug-ins that Slurm has.

    >>> family = mpiexec.recognise("Open MPI v5.0.11").family
    >>> [words] = candidates("auto", family, ["none", "pmi2", "pmix", "pmix_v4"], None, {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"})
    >>> " ".join(words)
    'srun --mpi=pmix --kill-on-bad-exit=1'
    """
    for way in _WAYS[family.name] if mpi == "auto" else (mpi,):
        if way == MPIRUN:
            whole = "SLURM_HET_SIZE" not in environ or mpi == MPIRUN  # mpirun knows the first part of a heterogeneous job only
            if whole and launcher is not None and os.path.basename(launcher.path) != "srun":
                yield _mpirun(launcher, environ)
        elif mpi != "auto":
            yield _srun(way, environ)
        elif found := sorted((name for name in listed if name == way or name.startswith(f"{way}_v")), key=lambda name: (len(name), name)):
            yield _srun(found[0], environ)


def _srun(plugin: str, environ: Mapping[str, str]) -> list[str]:
    """One dead rank ends the step at once, whatever the site's default is. All parts of a heterogeneous job make one world."""
    parts = int(environ.get("SLURM_HET_SIZE") or 0)
    return ["srun", f"--mpi={plugin}", "--kill-on-bad-exit=1", *([f"--het-group=0-{parts - 1}"] if parts else [])]


def _mpirun(launcher: mpiexec.Launcher, environ: Mapping[str, str]) -> list[str]:
    """It asks Slurm itself for the nodes. Binding is off: it would tie all threads of a rank to one core."""
    settings = [f"{name}={value}" for name, value in launcher.family.env if name not in environ and os.getuid() == 0]
    free = ["--bind-to", "none"] if "--bind-to" in launcher.family.flags else []
    return [*(["env", *settings] if settings else []), launcher.path, *free, "-n", str(ranks(environ))]


def main(mpi: str, python: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The words of the first launcher that makes one world of all ranks, tried with the interpreter `python`, container words and all.

    Raises LaunchError, with what each has said, where none does.
    """
    size = ranks(environ)
    library = mpiexec.library(tuple(python))
    listed = plugins()
    if mpi not in ("auto", MPIRUN, *listed):
        raise LaunchError(f"mpi={mpi}: srun has no such plug-in; valid: auto, {MPIRUN}, {', '.join(listed) or 'no plug-in'}")
    launcher, why = None, ""
    if mpi in ("auto", MPIRUN):
        try:
            launcher = mpiexec.launcher(library)
        except LaunchError as error:
            why = f"mpirun: {error}"
    tried: list[str] = []
    second: list[str] | None = None
    gpu = [sys.executable, "-m", "hpcdl.launch.one_gpu"] if environ.get("SLURM_GPUS_ON_NODE") or environ.get("SLURM_JOB_GPUS") else []
    for words in candidates(mpi, library.family, listed, launcher, environ):
        begin = time.monotonic()
        parts, nodes, text = _try([*words, *gpu, *python, "-m", "hpcdl.launch.tryout", str(size)])
        shown = f"{' '.join(words)} starts {library}: {size} ranks on {', '.join(nodes)}"
        if nodes and parts <= len(nodes):
            _say(f"{shown} ({time.monotonic() - begin:.1f} s)")
            return [*words, *gpu]
        if nodes:
            shown += "; they do not see which of them share a node, and would not use its memory"
            second = second or words
        else:
            tried.append(f"{' '.join(words)}:\n{text}")
        _say(shown if nodes else f"{' '.join(words)} does not start {library}: {text.splitlines()[-1].strip()}")
    if second is not None:
        _say(f"taken for want of a better one: {' '.join(second)}")
        return [*second, *gpu]
    tried += [why] if why else []
    raise LaunchError(
        f"no launcher makes one world of {size} ranks with {library} ({library.path or 'path unknown'}); tried:\n"
        + "\n".join(tried or [f"nothing: Slurm has no plug-in for it ({', '.join(listed)})"])
        + f"\nCause: the MPI library does not fit this Slurm{'' if mpi == 'auto' else f', or mpi={mpi} does not fit the library'}."
        + (" Cure: mpi=auto tries all that may fit." if mpi != "auto" else _CURE)
    )


_CURE = (
    " Cure: load the site's MPI module in `setup`, with an mpi4py that uses it (`hpcdl doctor` shows which it loads); or ask which of"
    " `srun --mpi=list` is meant for which MPI."
)


def _try(command: list[str]) -> tuple[int, list[str], str]:
    """In how many parts the world falls that share memory, and its nodes; or none and what was said."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        try:
            text, _ = child.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            child.terminate()
            try:
                text, _ = child.communicate(timeout=_AFTER_TERM)
            except subprocess.TimeoutExpired:
                child.kill()
                text, _ = child.communicate()
            text += f"\nno end within {_PATIENCE:.0f} s"
    found = re.search(rf"^{MARK}(\d+) (.+)$", text, re.MULTILINE)
    if found and child.returncode == 0:
        return int(found[1]), found[2].split(), text
    lines = dict.fromkeys(line.rstrip() for line in text.splitlines() if line.strip())
    return 0, [], "\n".join(f"    {line}" for line in list(lines)[-_SHOWN:]) or f"    exit code {child.returncode}, no output"


def _say(text: str) -> None:
    print(f"hpcdl: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print("\n".join(main(sys.argv[1], sys.argv[2:] or [sys.executable])))
    except LaunchError as problem:
        sys.exit(f"hpcdl: error: {problem}")

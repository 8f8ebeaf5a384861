"""Job and render: the templates as they stand, and with any edit region."""

from __future__ import annotations

import itertools
import os
import re
import subprocess

import pytest

from hpcdl.errors import DataError, InvalidArgument
from hpcdl.launch import site, templates
from hpcdl.launch.slurm import Job, render, seconds, sweep_points, template

BASH = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
VARIABLE = re.compile(r"[a-z]+=")


def region(script: str) -> list[str]:
    """The lines between the marks."""
    lines = script.split("\n")
    marks = [i for i, line in enumerate(lines) if line.startswith((templates.BEGIN, templates.END))]
    assert len(marks) == 2, script
    return lines[marks[0] + 1 : marks[1]]


def bash(script: str, *words: str, **env: str) -> list[str]:
    """What a script says, in pieces that end with a zero byte."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-s", *words], input=os.fsencode(script), capture_output=True, check=False, env={**BASH, **env}
    )
    assert done.returncode == 0, done.stderr.decode()
    return [os.fsdecode(piece) for piece in done.stdout.split(b"\0")[:-1]]


def array_of(job: Job, name: str = "program", **env: str) -> list[str]:
    """A variable of the rendered edit region, as bash reads it."""
    lines = "\n".join(region(render(job)))
    return bash(f'{lines}\nprintf "%s\\0" "${{{name}[@]}}"\n', **env)


@pytest.mark.parametrize("name", ["array", "cpu", "cpu_mpirun", "gpu", "gpu_mpirun", "long", "scaling", "test"])
def test_template_as_it_stands(name):
    text = templates.text(name)
    assert name in templates.names() and text.startswith("#!/bin/bash\n")
    assert subprocess.run(["bash", "-n"], input=text.encode(), check=False).returncode == 0
    for line in region(text):
        assert line.startswith("#") or VARIABLE.match(line), line
    assert max(map(len, text.splitlines())) <= 140
    outside = text.replace("\n".join(region(text)), "")
    assert "#SBATCH" not in outside and "train_numpy.py" not in outside


def test_unknown_template():
    with pytest.raises(InvalidArgument, match="unknown template 'nope'; known: array, cpu, "):
        templates.text("nope")


def test_bodies_agree():
    """What starts the ranks is the same everywhere, so that one may go from one template to the other."""
    lines = [
        'for command in "${setup[@]}"; do eval "$command" || { echo "hpcdl: failed on $(hostname): $command" >&2; exit 1; }; done',
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",
        'words=$("$python" -m hpcdl.launch.start "$mpi" "${container[@]}" "${program[0]}") || exit',
        'readarray -t launch <<<"$words"',
    ]
    for name in templates.names():
        found = templates.text(name).splitlines()
        assert [line for line in found if line in lines] == lines, name


@pytest.mark.parametrize("requeue, gpus, array, mpirun", list(itertools.product([False, True], repeat=4)))
def test_combinations(requeue, gpus, array, mpirun):
    job = Job(
        ("train.py", "--checkpoint", "run-{task}" if array else "run"),
        name="train",
        nodes=3,
        gpus_per_node="a100:2" if gpus else "",
        ntasks_per_node=0 if gpus else 2,
        requeue=requeue,
        checkpoint="run-{task}" if array else "run",
        sweep=(("lr", ("0.1", "0.01")),) if array else (),
        mpi="mpirun" if mpirun else "auto",
    )
    expected = "long" if requeue else "array" if array else ("gpu" if gpus else "cpu") + "_mpirun" * mpirun
    assert template(job) == expected
    script = render(job)
    assert script.replace("\n".join(region(script)), "") == (text := templates.text(expected)).replace("\n".join(region(text)), "")
    lines = region(script)
    assert "#SBATCH --ntasks-per-node=2" in lines and "#SBATCH --nodes=3" in lines
    assert ("#SBATCH --gpus-per-node=a100:2" in lines) == gpus
    assert ("#SBATCH --array=0-1" in lines) == array and f"#SBATCH --output=%x-{'%A_%a' if array else '%j'}.out" in lines
    assert all((line in lines) == requeue for line in ("#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@120"))
    assert ("mpi=mpirun" in lines) == mpirun
    words = array_of(job, SLURM_ARRAY_TASK_ID="1")
    assert words[1:] == ["train.py", "--checkpoint", "run-1" if array else "run", *(["--lr=0.01"] if array else [])]
    assert not requeue or array_of(job, "checkpoint", SLURM_ARRAY_TASK_ID="1") == ["run-1" if array else "run"]


def test_sweep_of_two():
    job = Job(("train.py",), sweep=(("lr", ("0.1", "a b")), ("seed", ("1", "2", "-3"))), at_once=2)
    assert len(sweep_points(job)) == 6 and "#SBATCH --array=0-5%2" in region(render(job))
    for index, point in enumerate(sweep_points(job)):
        assert array_of(job, SLURM_ARRAY_TASK_ID=str(index))[2:] == point
    assert sweep_points(job)[5] == ["--lr=a b", "--seed=-3"]


def test_scaling():
    job = Job(scaling=(1, 2, 4))
    assert template(job) == "scaling" and "#SBATCH --nodes=1" in region(render(job))
    assert array_of(job, SLURM_JOB_ID="7")[-2:] == ["--json", "scaling-7.jsonl"]
    own = Job(("train.py", "--out={results}"), scaling=(2, 4))
    assert array_of(own, SLURM_JOB_ID="7")[1:] == ["train.py", "--out=scaling-7.jsonl"]


def test_any_words(require):
    """Every argument reaches the program as it is, whatever is in it."""
    require("hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    pieces = st.sampled_from(["'", '"', "$HOME", "\\", "\n", " ", "`id`", "!", "*", "#", "{task", "é", "\udcff", "$(id)", "~", "\t", ";"])
    character = st.characters(exclude_characters="\0", exclude_categories=("Cs",))
    word = st.lists(st.one_of(pieces, st.text(character, max_size=4)), max_size=5).map("".join)
    words = st.lists(word.filter(lambda text: "{task}" not in text and "{results}" not in text), max_size=4).map(tuple)

    @settings(max_examples=50, deadline=None)
    @given(words, words, words, word)
    def check(arguments, setup, container, python):
        job = Job(("train.py", *arguments), setup=setup, container=container, python=python)
        lines = "\n".join(region(render(job)))
        tell = 'declare -n all=$list; printf "%s\\0" "${#all[@]}" "${all[@]}"'
        found = bash(f"{lines}\nfor list in setup container program; do {tell}; done\n")
        program = ("python" if container else python, "train.py", *arguments)
        assert found == [piece for words in (setup, container, program) for piece in (str(len(words)), *words)]

    check()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": ()}, "no script given"),
        ({"nodes": 0}, "nodes must be at least 1, got 0"),
        ({"ntasks_per_node": -1}, "ntasks-per-node must be at least 0"),
        ({"gpus_per_node": "x"}, "gpus-per-node 'x'; valid: a number"),
        ({"time": "2h"}, "time '2h'; valid: minutes, minutes:seconds, hours:minutes:seconds"),
        ({"time": "0"}, "no time at all"),
        ({"indices": "a-b"}, "array 'a-b'; valid: name=value"),
        ({"indices": "0-3", "checkpoint": "run"}, "--checkpoint run-{task}"),
        ({"indices": "0-3", "scaling": (1, 2)}, "do not go together"),
        ({"scaling": (4, 2)}, "scaling 4,2; valid: numbers of nodes, ascending"),
        ({"command": ("train.py", "\0")}, "zero byte"),
    ],
)
def test_no_job(change, said):
    with pytest.raises(InvalidArgument, match=re.escape(said)):
        Job(**{"command": ("train.py",), **change})


def test_no_directive():
    with pytest.raises(InvalidArgument, match="holds what a line of #SBATCH cannot"):
        render(Job(("train.py",), name="a\nb"))
    with pytest.raises(InvalidArgument, match="'exclusive' is no option of sbatch"):
        render(Job(("train.py",), options=("exclusive",)))


def test_directives_are_quoted():
    lines = region(render(Job(("train.py",), name='a "b" \\ # c', output="50% of it")))
    assert '#SBATCH --job-name="a \\"b\\" \\\\ # c"' in lines and '#SBATCH --output="50%% of it/%x-%j.out"' in lines


def test_warning_of_a_short_job():
    lines = region(render(Job(("train.py",), requeue=True, time="4")))
    assert "#SBATCH --signal=B:USR1@60" in lines and "grace=30" in lines


def test_times():
    expected = {"3": 180, "3:05": 185, "1:00:01": 3601, "2-0": 172800, "1-1:1:1": 90061, "1-2:30": 95400}
    assert {text: seconds(text) for text in expected} == expected


class TestSite:
    def read(self, tmp_path, user=None, site_file=None):
        environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
        if user is not None:
            site.write(tmp_path / "config/hpcdl/submit.toml", user)
        if site_file is not None:
            site.write(tmp_path / "site.toml", site_file)
            environ["HPCDL_SITE"] = str(tmp_path / "site.toml")
        return site.defaults(environ)

    def test_order(self, tmp_path):
        found = self.read(tmp_path, '[submit]\nnodes = 2\nsetup = ["a b"]', '[submit]\nnodes = 8\npartition = "long"\nrequeue = true')
        assert found == {"nodes": 2, "setup": ("a b",), "partition": "long", "requeue": True}
        assert self.read(tmp_path / "none") == {}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[submit]\nnode = 2", "unknown key 'node'; valid: nodes, ntasks-per-node, cpus-per-task"),
            ('[submit]\nnodes = "2"', "nodes must be a whole number, got '2'"),
            ("[submit]\nrequeue = 1", "requeue must be true or false"),
            ('[submit]\nsetup = "module load x"', "setup must be a list of texts"),
            ("nodes = 2", "nodes stands outside of the table [submit]"),
            ("submit = 2", "submit stands outside"),
            ("[submit", "submit.toml: "),
        ],
    )
    def test_bad_file(self, tmp_path, text, said):
        with pytest.raises(DataError, match=re.escape(said)):
            self.read(tmp_path, text)

    def test_no_site_file(self, tmp_path):
        with pytest.raises(DataError, match="there is no such file"):
            site.defaults({"HPCDL_SITE": str(tmp_path / "nope")})

    def test_not_twice(self, tmp_path):
        site.write(tmp_path / "x/y.toml", "")
        with pytest.raises(InvalidArgument, match="is there already"):
            site.write(tmp_path / "x/y.toml", "")


@pytest.mark.parametrize("field", [{"name": "a/b"}, {"output": "a\\b"}])
def test_log_that_slurm_would_not_find(field):
    with pytest.raises(InvalidArgument, match="Slurm would not find the log"):
        Job(("train.py",), **field)

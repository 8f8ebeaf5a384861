"""`hpcdl submit | status | logs | cancel` where there is no Slurm: what is refused before it is asked. With one: tests/slurm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpcdl.cli import main
from hpcdl.errors import LaunchError
from hpcdl.launch import mpiexec, queue, site
from hpcdl.launch.start import candidates, ranks


@pytest.fixture
def hpcdl(tmp_path, monkeypatch, capfdbinary):
    """`hpcdl(*words)`: the command in a folder with train.py, with nothing of Slurm in PATH; its exit code, output and errors."""
    (tmp_path / "train.py").write_text("print('hello')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HPCDL_SITE", raising=False)

    def run(*words):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_dry_run(hpcdl, tmp_path):
    words = ("--nodes", "2", "--array", "lr=0.1,0.01", "--requeue", "--dry-run", "train.py", "--checkpoint", "run {task}", "--nodes", "$x")
    code, out, err = hpcdl("submit", *words)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --job-name=train" in lines and "#SBATCH --nodes=2" in lines
    assert """checkpoint='run '"$SLURM_ARRAY_TASK_ID\"""" in lines and "sweep=(--lr=0.1 --lr=0.01)" in lines
    assert f"python={sys.executable}" in lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"]


def test_defaults_and_order(hpcdl, tmp_path, monkeypatch):
    text = '[submit]\nnodes = 8\ntime = "10"\noptions = ["--exclusive"]\npython = "python3"\n'
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("HPCDL_SITE", str(tmp_path / "site.toml"))
    site.write(tmp_path / "config/hpcdl/submit.toml", '[submit]\nnodes = 4\naccount = "me"\n')
    code, out, err = hpcdl("submit", "--dry-run", "--account", "you", "--sbatch=--comment=x", "-m", "train", "-x")
    assert code == 0, err
    for line in ("--nodes=4", "--time=10", "--account=you", "--exclusive", "--comment=x", "--job-name=train"):
        assert f"#SBATCH {line}" in out.splitlines()
    assert 'program=("$python" -m train -x)' in out and "python=python3" in out


def test_test(hpcdl):
    code, out, err = hpcdl("submit", "--dry-run", "--nodes", "8", "--test", "train.py")
    assert code == 0 and "#SBATCH --nodes=2" in out and "#SBATCH --time=00:10:00" in out and 'echo "test passed"' in out, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submit", "train.py"], "hpcdl run -n 4 train.py"),
        (["submit", "--init"], "sinfo is not here, so this is no machine of a Slurm cluster. Cure: "),
        (["status", "7"], "scontrol is not here"),
        (["cancel", "7"], "scontrol is not here"),
        (["logs", "seven"], "job 'seven'; valid: a job's number, 1234, or an element of an array, 1234_0"),
        (["submit"], "no script given"),
        (["submit", "-m"], "-m needs the name of a module"),
        (["submit", "nope.py"], "no such script: 'nope.py'"),
        (["submit", "."], "'.' is a directory"),
        (["submit", "/bin/sh"], "is no Python script"),
        (["submit", "--node", "2", "train.py"], "unknown option --node; valid: --help, --nodes, --ntasks-per-node"),
        (["submit", "--nodes", "two", "train.py"], "invalid int value: 'two'"),
        (["submit", "--time", "2h", "train.py"], "time '2h'; valid: minutes,"),
        (["submit", "--array", "lr=1", "--array", "2", "train.py"], "--array '2'; valid: --array lr=0.1,0.01"),
        (["submit", "--array", "lr=1,,2", "train.py"], "--array 'lr=1,,2'; valid"),
        (["submit", "--array", "lr=1", "--array", "lr=2", "train.py"], "names lr twice"),
        (["submit", "--scaling", "1-4", "train.py"], "--scaling '1-4'; valid"),
        (["submit", "--output", "train.py/logs", "train.py"], "the folder of the logs, train.py/logs, cannot be made"),
        (["status"], "the following arguments are required: JOB"),
    ],
)
def test_refused(hpcdl, words, said):
    code, _, err = hpcdl(*words)
    assert code == 2 and said in err, err


def test_templates(hpcdl):
    code, out, _ = hpcdl("submit", "--templates")
    assert code == 0 and (Path(out.strip()) / "cpu.sbatch").is_file()


def test_own_words_of_slurm():
    with pytest.raises(LaunchError, match="false refuses:\n  exit code 1, and no word"):
        queue.slurm("false")


JOB = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "6"}
LISTED = ("cray_shasta", "none", "pmi2", "pmix", "pmix_v4")


class TestStart:
    def words(self, library, mpi="auto", listed=LISTED, launcher=None, **env):
        family = mpiexec.recognise(library).family
        return [" ".join(found) for found in candidates(mpi, family, listed, launcher, {**JOB, **env})]

    def test_by_library(self):
        assert self.words("Open MPI v5.0.11") == ["srun --mpi=pmix --kill-on-bad-exit=1"]
        assert self.words("Open MPI v5.0.11", listed=["pmix_v4", "pmi2"]) == ["srun --mpi=pmix_v4 --kill-on-bad-exit=1"]
        assert [words.split()[1] for words in self.words("MPICH Version: 5.0.2")] == ["--mpi=cray_shasta", "--mpi=pmi2", "--mpi=pmix"]
        assert self.words("Intel(R) MPI Library 2021.1", listed=["none"]) == []
        assert self.words("MPICH Version: 5.0.2", mpi="none") == ["srun --mpi=none --kill-on-bad-exit=1"]

    def test_mpirun(self):
        family = mpiexec.recognise("Open MPI v5.0.11").family
        [words] = self.words("Open MPI v5.0.11", mpi="mpirun", launcher=mpiexec.Launcher("/x/mpirun", "5.0.11", family))
        assert words.endswith("/x/mpirun --bind-to none -n 6")
        hydra = mpiexec.Launcher("/x/mpiexec", "5.0.2", mpiexec.recognise("MPICH Version: 5.0.2").family)
        found = self.words("MPICH Version: 5.0.2", listed=["pmi2"], launcher=hydra)
        assert [words.split()[0] for words in found] == ["/x/mpiexec", "srun"]
        assert len(self.words("MPICH Version: 5.0.2", listed=["pmi2"], launcher=hydra, SLURM_HET_SIZE="1")) == 1

    def test_heterogeneous(self):
        env = {"SLURM_HET_SIZE": "2", "SLURM_NTASKS_HET_GROUP_0": "3", "SLURM_TASKS_PER_NODE_HET_GROUP_1": "2(x3),1"}
        assert ranks({"SLURM_JOB_ID": "1", **env}) == 10
        assert self.words("Open MPI v5.0.11", **env) == ["srun --mpi=pmix --kill-on-bad-exit=1 --het-group=0-1"]

    def test_ranks(self):
        assert ranks(JOB) == 6 and ranks({"SLURM_JOB_ID": "1", "SLURM_TASKS_PER_NODE": "4(x2),1"}) == 9
        with pytest.raises(LaunchError, match="not inside a Slurm job: submit the script with `sbatch`"):
            ranks({})


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A folder with a script, and no files of defaults."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "train.py").write_text("")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--array", "lr=1,2", "train.py", "--checkpoint", "run"], "all elements of the array would write to the checkpoint 'run'"),
        (["train.py", "--checkpoint", "run-{task}"], "it needs --array"),
        (["--scaling", "1,2", "train.py"], "give it {results}"),
        (
            ["--checkpoint", "run", "train.py"],
            "--checkpoint is of use with --requeue or --array only, which is not given; what",
        ),
        (["--at-once", "2", "train.py"], "--at-once is of use with --array only"),
        (["--restarts", "2", "train.py"], "--restarts is of use with --requeue only"),
    ],
)
def test_what_would_go_wrong_later(hpcdl, script, words, said):
    code, _, err = hpcdl("submit", "--dry-run", *words)
    assert code != 0 and said in err, err


def test_options_behind_the_script(hpcdl, script):
    code, out, err = hpcdl("submit", "--dry-run", "train.py", "--nodes", "2", "--lr=1")
    assert code == 0 and "note: --nodes behind train.py is given to the script" in err and "#SBATCH --nodes=1" in out


def test_a_test_is_of_two_nodes(hpcdl, script):
    assert "#SBATCH --nodes=2" in hpcdl("submit", "--dry-run", "--test", "train.py")[1]

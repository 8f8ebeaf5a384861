"""jobs/gpt.py: the loss curve of one process on every mesh, checkpoints that change the mesh, and errors before anything starts."""

import json
import math
import runpy
import sys
from pathlib import Path

import pytest
from harness.parts import framework
from harness.programs import JOBS, run

framework("torch")
pytestmark = pytest.mark.outer

GPT = JOBS / "gpt.py"
RUNS = Path(__file__).with_name("runs.py")
STEPS = 20
# So small and so quick to learn that 20 steps take the loss well below that of byte frequencies: what is wrong in a step shows.
TINY = [
    *("--layers", "4", "--heads", "4", "--width", "32", "--context", "32", "--batch", "16", "--steps", str(STEPS), "--log-every", "5"),
    *("--lr", "0.01", "--warmup", "5", "--clip", "0.5", "--eval-batches", "2", "--sample", "0", "--seed", "3"),
]
BOUND = 1e-5  # relative, on each loss: as jobs/README.md states
MESHES = {  # each group is one launch
    "whole": {
        "dp4": "",
        "tp4": "--tp 4",
        "dp2 tp2": "--tp 2",
        "dp4, accumulated": "--accumulate 2",
        "fsdp4": "--fsdp",
        "fsdp2 tp2": "--fsdp --tp 2 --accumulate 2",
    },
    "pipelines": {
        "dp2 pp2, gpipe": "--dp 2 --pp 2 --schedule gpipe",
        "tp2 pp2": "--dp 1 --tp 2 --pp 2",
        "pp4": "--pp 4",
        "dp2 pp2, interleaved": "--pp 2 --schedule interleaved",
        "fsdp2 pp2": "--fsdp --pp 2",
        "fsdp2 pp2, interleaved": "--fsdp --pp 2 --schedule interleaved --accumulate 2",
    },
}
ROUNDED = {
    "rounded": {
        "int8": "--codec int8",
        "int8, dp2 tp2": "--codec int8 --tp 2",
        "int8, dp2 pp2": "--codec int8 --pp 2",
        "bf16, tp2 pp2": "--bf16 --tp 2 --pp 2",
        "bf16, fsdp": "--bf16 --fsdp",
    },
}


def cases(groups):
    """(group, name) of each mesh."""
    return [(group, name) for group, meshes in groups.items() for name in meshes]


def text(folder):
    """A folder of text in which much can be learned in a few steps."""
    lines = [f"the {noun} {verb} {i % 7} times;\n" for i in range(500) for noun in ("cat", "dog") for verb in ("jumps", "sleeps")]
    (folder / "first.txt").write_text("".join(lines[:1000]))
    (folder / "inner").mkdir()
    (folder / "inner" / "second.txt").write_text("".join(lines[1000:]))
    (folder / "image.bin").write_bytes(b"no text\0" * 1000)
    return folder


def start(folder, ranks, commands, **environ):
    """Run the script on so many ranks with each command line; the results, and what was printed."""
    tiny = [*TINY, "--text", str(folder / "text")]
    written = []  # see runs.py
    for command in commands:
        ahead = {"remove": 2, "truncate": 2, "warn": 3}.get(command[0] if command else "", 0)
        written.append([*command[:ahead], *([] if ahead == 2 else tiny), *command[ahead:]])
    (folder / "commands.json").write_text(json.dumps(written))
    (folder / "results.json").unlink(missing_ok=True)
    launch = [sys.executable, "-m", "hpcdl.cli", "run", "-n", ranks, RUNS, GPT, folder / "commands.json", folder / "results.json"]
    done = run(*launch, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "results.json").read_text()), done


class Runs:
    """Starts each group of meshes once, when the first test asks for one of it."""

    def __init__(self, folder):
        self.folder, self.found = folder, {}
        text_folder = folder / "text"
        text_folder.mkdir()
        text(text_folder)
        [self.one], _ = start(folder, 1, [[]])

    def __call__(self, group, name):
        if group not in self.found:
            meshes = {**MESHES, **ROUNDED}[group]
            between_nodes = {"HPCDL_SHARED_MEMORY": "0"} if group == "rounded" else {}  # in shared memory nothing is encoded
            results, _ = start(self.folder, 4, [words.split() for words in meshes.values()], **between_nodes)
            self.found[group] = dict(zip(meshes, results, strict=True))
        return self.found[group][name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`runs(group, name)`: what the run on that mesh found; `runs.one`: one process."""
    return Runs(tmp_path_factory.mktemp("gpt"))


@pytest.fixture(scope="module")
def script():
    """The names in jobs/gpt.py."""
    return runpy.run_path(str(GPT), run_name="gpt")


def difference(found, expected):
    """The largest relative difference of two loss curves and of the held-out losses."""
    pairs = [*zip(found["losses"], expected["losses"], strict=True), (found["held_out_loss"], expected["held_out_loss"])]
    return max(abs(a - b) / b for a, b in pairs)


def test_one_process_learns(runs, require):
    require("mpi")
    one = runs.one
    assert len(one["losses"]) == STEPS and one["losses"][0] == pytest.approx(math.log(256), rel=0.02)
    assert one["held_out_loss"] < 0.95 * one["entropy"] and one["tokens_per_second"] > 0
    assert min(one["split"].values()) >= 0 and sum(one["split"].values()) > 0


@pytest.mark.parametrize(("group", "name"), cases(MESHES))
def test_mesh_equals_one_process(runs, require, group, name):
    require("mpi")
    assert difference(runs(group, name), runs.one) < BOUND


@pytest.mark.parametrize(("group", "name"), cases(ROUNDED))
def test_rounding_changes_little(runs, require, group, name):
    require("mpi")
    assert 10 * BOUND < difference(runs(group, name), runs.one) < 0.03


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What runs with checkpoints found, in the order of `SAVED`, where they were, and what was printed; all in one launch."""
    folder = tmp_path_factory.mktemp("saved")
    text((folder / "text").mkdir() or folder / "text")
    results, done = start(folder, 4, [[word.replace("AT", str(folder)) for word in line.split()] for line in SAVED])
    return results, folder, done


STEP = "step-0000000000"
SAVED = """
    --fsdp --tp 2 --checkpoint AT/a --save-every 10
    remove AT/a/step-000000000020
    --pp 2 --schedule interleaved --checkpoint AT/a --save-every 10 --resume
    --tp 2 --pp 2 --checkpoint AT/b --save-every 10
    truncate AT/b/step-000000000020/trainer.files/__3_0.distcp
    --fsdp --checkpoint AT/b --save-every 10 --resume
    warn 3 6 --dp 4 --checkpoint AT/c --resume
    --fsdp --checkpoint AT/c --resume
    --fsdp --checkpoint AT/c --resume
    --fsdp --checkpoint AT/c
    --fsdp --checkpoint AT/c --resume --width 16
    --fsdp --checkpoint AT/c --resume --context 16
    --fsdp --checkpoint AT/c --resume --lr 0.005 --steps 21
""".strip().splitlines()


def test_resume_on_another_mesh(runs, saved, require):
    require("mpi")
    (_, one, _, two, *_), _, done = saved
    expected = {**runs.one, "losses": runs.one["losses"][10:]}
    for found in (one, two):
        assert difference(found, expected) < BOUND and len(found["losses"]) == STEPS - 10
    assert done.stdout.count("going on after step 10") == 2


def test_a_damaged_checkpoint_is_passed_over(saved, require):
    require("mpi")
    _, folder, done = saved
    told = [line for line in done.stderr.splitlines() if "passed over" in line]
    assert len(told) == 1 and "b/step-000000000020 is damaged (trainer.files/__3_0.distcp has 100 bytes" in told[0], done.stderr
    assert told[0].endswith(f"passed over for {folder / 'b' / 'step-000000000010'}")


def test_a_warning_ends_it_at_a_saved_step(runs, saved, require):
    require("mpi")
    results, folder, done = saved
    assert (
        results[4] == {"exit": 85} and f"SIGUSR1 to rank 3: all ranks stop after step 8; step 8 is saved in {folder / 'c'}" in done.stderr
    )
    assert f"no checkpoint in {folder / 'c'}, so this begins with step 1" in done.stdout and "going on after step 8" in done.stdout
    assert difference(results[5], {**runs.one, "losses": runs.one["losses"][8:]}) < BOUND


def test_what_is_said_of_checkpoints_that_are_there(saved, require):
    require("mpi")
    (*_, before, again, present, width, context, changed), folder, done = saved
    assert again["losses"] == [] and again["held_out_loss"] == pytest.approx(before["held_out_loss"], rel=1e-6)
    assert "nothing is left to do of 20 steps" in done.stdout
    assert present == width == context == {"exit": 2}
    assert f"{folder / 'c'} has checkpoints already; go on from the newest with --resume" in done.stderr
    assert (
        "is of shape" not in done.stderr and "is torch.float32 of shape [256, 16] here, and torch.float32 of shape [256, 32]" in done.stderr
    )
    assert "is of another run: context 32 (now 16)" in done.stderr
    assert len(changed["losses"]) == 1 and "going on after step 20; changed since: steps 20 (now 21), lr 0.01 (now 0.005)" in done.stdout
    assert sorted(path.name for path in (folder / "c").iterdir()) == [f"{STEP}20", f"{STEP}21"]


def test_as_a_user_starts_it(require, tmp_path):
    require("mpi")
    text((tmp_path / "text").mkdir() or tmp_path / "text")
    words = [
        "--text",
        tmp_path / "text",
        "--steps",
        "30",
        "--sample",
        "40",
        "--prompt",
        "the ",
        "--json",
        tmp_path / "x.jsonl",
        "--pp",
        "2",
    ]
    done = run(sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, GPT, *TINY, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = (tmp_path / "x.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found["held_out_loss"] < 0.7 * found["entropy"] and found["parameters"] > 10_000
    assert len(found["sample"].encode()) >= 44 and found["sample"].startswith("the ") and found["sample"] in done.stdout
    for row in ("held-out loss", "tokens per second", "waiting for messages"):
        assert done.stdout.count(row) == 1, "one table, from rank 0 alone"
    assert "\x1b[" not in done.stdout


def test_refused_before_anything_starts(require):
    require("mpi")
    done = run(sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, GPT, "--tp", "2", "--heads", "1")
    assert done.returncode == 2
    assert done.stderr.count("gpt.py: --tp 2 does not divide --heads 1; valid: 1") == 1, done.stderr
    assert "Traceback" not in done.stderr and "held out" not in done.stdout


@pytest.mark.parametrize(
    ("size", "words", "says"),
    [
        (4, "--tp 3", "--tp 3 x --pp 1 does not divide the 4 ranks; start a multiple of 3"),
        (4, "--dp 2", "--dp 2 x --tp 1 x --pp 1 needs 2 ranks, there are 4; leave --dp out or give --dp 4"),
        (6, "--tp 3", "--tp 3 does not divide --heads 4; valid: 1, 2, 4"),
        (1, "--heads 3", "--heads 3 does not divide --width 128 / 2; valid: 1, 2, 4, 8, 16, 32, 64"),
        (3, "--pp 3", "--pp 3 does not divide --layers 4; valid: 1, 2, 4"),
        (4, "--pp 4 --schedule interleaved", "--pp 4 does not divide --layers 4 / 2; valid: 1, 2"),
        (4, "--schedule gpipe", "give --pp as well"),
        (5, "", "--dp 5 does not divide --batch 32; valid: 1, 2, 4, 8, 16, 32"),
        (4, "--accumulate 3", "--accumulate 3 does not divide --batch 32 / --dp 4; valid: 1, 2, 4, 8"),
        (4, "--pp 4 --accumulate 2", "--accumulate 2 is not a multiple of --pp 4"),
        (4, "--fsdp --codec int8", "leave one of them out"),
        (4, "--codec int7", "unknown codec 'int7'; known: bf16,"),
        (4, "--resume", "--checkpoint DIR"),
        (4, "--json nowhere/x.jsonl", "there is no folder"),
    ],
)
def test_what_cannot_be_run_says_why(script, size, words, says):
    with pytest.raises(script["Refused"]) as caught:
        script["settle"](script["parse"](words.split()), size)
    assert says in str(caught.value)


@pytest.mark.parametrize("words", ["--text-mib inf", "--lr -1", "--clip 0", "--temperature nan", "--steps 0"])
def test_numbers_that_cannot_be(script, words, capsys):
    with pytest.raises(SystemExit):
        script["parse"](words.split())
    assert words.split()[1] in capsys.readouterr().err


def test_text_is_a_sample_of_the_folder_and_the_same_each_time(script, tmp_path):
    read = script["read"]
    whole = read(text(tmp_path), 10**9)
    assert len(whole) == sum(path.stat().st_size for path in tmp_path.rglob("*.txt")) and b"no text" not in whole
    assert read(tmp_path, 1000) == whole[:1000] and read(tmp_path / "first.txt", 50) == (tmp_path / "first.txt").read_bytes()[:50]
    with pytest.raises(FileNotFoundError, match="nowhere is no file and no folder"):
        read(tmp_path / "nowhere", 50)
    library = read(None, 300_000)
    assert len(library) == 300_000 and b"import " in library

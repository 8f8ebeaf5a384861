"""One folder of checkpoints: what is whole, what is damaged, and what a crash leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpcdl.checkpoint.folder import Folder
from hpcdl.checkpoint.manifest import Manifest
from hpcdl.errors import DataError

NAME = "shared-00000-of-00001.safetensors"


def written(folder: Folder, step: int, data: bytes = b"some bytes") -> Manifest:
    folder.begin(step)
    manifest = Manifest(step, 1, (folder.write(step, NAME, data),))
    folder.finish(manifest)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "runs" / "a")


def test_what_is_not_mounted_is_an_error(tmp_path) -> None:
    """At the end of the path, or above; else training would begin anew."""
    (tmp_path / "scratch").symlink_to(tmp_path / "not mounted")
    for path in (tmp_path / "scratch", tmp_path / "scratch" / "runs" / "a"):
        with pytest.raises(OSError):
            Folder(path).steps()
    assert Folder(tmp_path / "not there" / "a").steps() == []


def test_what_earlier_runs_of_the_same_job_were_writing_goes(tmp_path) -> None:
    for run, over in (("job12.one", None), ("job1.two", None), ("job1.three", None), ("four", None)):
        Folder(tmp_path, run, over).begin(5)
    again = Folder(tmp_path, "job1.five", "job1.")
    again.begin(10)
    again.begin(15)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [
        f".writing-step-{step:012d}-{run}" for step, run in ((5, "four"), (5, "job12.one"), (10, "job1.five"), (15, "job1.five"))
    ]


def test_there_and_back(folder) -> None:
    assert folder.steps() == []
    for step in (5, 30, 10**13):
        manifest = written(folder, step)
        assert folder.manifest(step) == manifest and folder.read(step, manifest.files[0]) == b"some bytes"
    assert folder.steps() == [10**13, 30, 5]
    folder.keep(1, 30)
    assert folder.steps() == [10**13, 30]
    folder.set_aside([10**13])
    assert folder.steps() == [30]


def test_again_at_the_same_step(folder) -> None:
    written(folder, 5, b"first")
    manifest = written(folder, 5, b"second")
    assert folder.read(5, manifest.files[0]) == b"second" and folder.steps() == [5]
    assert sorted(path.name for path in folder.path.iterdir()) == ["step-000000000005"]


def test_what_a_crash_leaves(folder) -> None:
    """At any point of writing: the one before is there, and the next attempt clears up."""
    first = written(folder, 5)
    folder.begin(6)
    folder.write(6, NAME, b"not finished")
    assert Folder(folder.path).steps() == [5]
    other = Folder(folder.path, "of another run")
    other.begin(6)
    folder.begin(7)
    assert folder.writing(6).exists() and other.writing(6).exists()  # somebody may be at it
    for left in (folder.writing(6), other.writing(6)):
        os.utime(left, (0, 0))
    written(folder, 7)
    assert sorted(path.name for path in folder.path.iterdir()) == ["step-000000000005", "step-000000000007"]
    folder.at(5).rename(folder.path / ".replaced-step-000000000005")  # it ended between the two renames of another save of step 5
    assert folder.steps() == [7]
    folder.recover()
    assert folder.steps() == [7, 5] and folder.read(5, first.files[0]) == b"some bytes"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "has 7 bytes, 10 were written"),
        (lambda path: path.write_bytes(b"same bytes"), "was changed after it was written"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is missing"),
    ],
)
def test_damaged_files(folder, damage, said) -> None:
    manifest = written(folder, 5)
    damage(folder.at(5) / NAME)
    with pytest.raises(DataError, match=f"{NAME} {said}"):
        folder.read(5, manifest.files[0])


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "its manifest cannot be read"),
        (lambda path: path.write_text(path.read_text()[:50]), "its manifest is damaged"),
        (lambda path: path.write_text(""), "its manifest is damaged"),
        (lambda path: path.write_text("[]"), "its manifest is damaged"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "its manifest cannot be read"),
        (lambda path: edit(path, step=6), "its manifest was changed after it was written"),
        (lambda path: edit(path, format="another"), "its manifest is of another program"),
        (lambda path: edit(path, version=99), "it is of version 99, and this hpcdl reads version 1"),
    ],
)
def test_damaged_manifests(folder, damage, said) -> None:
    written(folder, 5)
    damage(folder.at(5) / "manifest.json")
    with pytest.raises(DataError, match=said):
        folder.manifest(5)


def test_of_another_step(folder) -> None:
    written(folder, 5)
    folder.at(5).rename(folder.at(6))
    with pytest.raises(DataError, match="its manifest is that of step 5"):
        folder.manifest(6)


def test_files_that_are_not_there_make_no_checkpoint(folder) -> None:
    """As where ranks see different folders of one name."""
    folder.begin(5)
    entry = folder.write(5, NAME, b"some bytes")
    (folder.writing(5) / NAME).write_bytes(b"")
    with pytest.raises(OSError, match="do all ranks see the same folder"):
        folder.finish(Manifest(5, 1, (entry,)))
    assert folder.steps() == []


def test_a_link_to_nothing_is_not_an_empty_folder(tmp_path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "not mounted")
    with pytest.raises(OSError):
        Folder(tmp_path / "run").steps()


def test_every_bit_of_a_manifest_counts() -> None:
    """Whatever bit flips, it is told from what was written, or says the same."""
    text = Manifest(5, 1, ()).to_json()
    for place in range(len(text)):
        for bit in range(7):
            changed = text[:place] + chr(ord(text[place]) ^ (1 << bit)) + text[place + 1 :]
            try:
                assert Manifest.from_json(changed) == Manifest(5, 1, ())
            except DataError:
                continue


def test_a_manifest_names_files_of_its_own_folder_only(folder) -> None:
    text = Manifest(5, 1, ()).to_json()
    from hpcdl.checkpoint.manifest import Entry

    for name in ("../step-000000000004/" + NAME, "/etc/passwd", "manifest.json"):
        with pytest.raises(DataError, match="names a file that is not a checkpoint's"):
            Manifest.from_json(Manifest(5, 1, (Entry(name, 1, ""),)).to_json())
    assert Manifest.from_json(text) == Manifest(5, 1, ())

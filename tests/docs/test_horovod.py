"""hpcdl/horovod/README.md: its tables name what exists, and leave nothing out. Read from the source, so no framework is needed."""

from __future__ import annotations

import ast
import re

import pytest

from docs.blocks import ROOT, commands

README = (ROOT / "hpcdl/horovod/README.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "hpcdl"


def public(module: str) -> set[str]:
    """The names in `__all__` of a file of the package."""
    for node in ast.parse((PACKAGE / module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables in a section, without their heads."""
    section = re.split(r"^## ", README.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)]


def test_every_call_of_the_pytorch_front_stands_in_the_table() -> None:
    table = rows("Call by call: PyTorch")
    named = {name for cells in table for name in re.findall(r"`(\w+)`", cells[0])}
    missing_here = {name for cells in table if cells[1] == "not here" for name in re.findall(r"`(\w+)`", cells[0])}
    assert missing_here == {"check_extension"}
    assert named - missing_here == public("horovod/torch/__init__.py") | public("horovod/shared.py")


def test_elastic() -> None:
    told = next(cells for cells in rows("Call by call: PyTorch") if cells[0] == "`elastic`")
    assert set(re.findall(r"`elastic\.(\w+)`", told[1])) == public("horovod/torch/elastic/__init__.py")


def test_own_doors() -> None:
    """What is recommended exists."""
    assert set(re.findall(r"ht\.(\w+)", README)) <= public("torch/__init__.py")


def test_variables() -> None:
    """Those that are honoured are those that the package reads."""
    table = {name for cells in rows("What differs behind it") for name in re.findall(r"`(HOROVOD_\w+)`", cells[0])}
    read = {
        name
        for path in PACKAGE.rglob("*.py")
        if path.name != "build.py"
        for name in re.findall(r"\"(HOROVOD_\w+)\"", path.read_text(encoding="utf-8"))
    }
    assert table == read


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links(target: str) -> None:
    assert (PACKAGE / "horovod" / target).resolve().exists()


def test_commands() -> None:
    """The first is the job's own, which tests/jobs runs; the others run in .ci/run."""
    command, *others = commands("hpcdl/horovod/README.md")
    assert command in (ROOT / "jobs/horovod_torch.py").read_text(encoding="utf-8")
    assert command in commands("jobs/README.md")
    in_ci = re.findall(r"\$\(readme '(.*?)' hpcdl/horovod/README\.md\)", (ROOT / ".ci/run").read_text(encoding="utf-8"))
    assert len(others) == len(in_ci) and all(map(str.startswith, others, in_ci))

"""hpcdl keeps the rules, and each rule can be broken."""

from pathlib import Path

import pytest

from structure.rules import RULES

HPCDL = Path(__file__).parents[2] / "hpcdl"


@pytest.mark.parametrize("rule", RULES)
def test_hpcdl_keeps_it(rule):
    violations = list(RULES[rule](HPCDL))
    assert not violations, f"{RULES[rule].__doc__}\n" + "\n".join(violations)


DOC = '"""Documented."""\n'
SOUND = {
    "__init__.py": DOC + "from .world import init\n",
    "launch/env.py": DOC,
    "launch/slurm.py": DOC,
    "codecs/__init__.py": DOC,
}
BREACHES = [  # rule, file, its text, what the violation says
    ("direction", "codecs/x.py", DOC + "from ..world import World\n", "codecs/x.py:2: codecs imports hpcdl.world"),
    ("direction", "arrays/x.py", DOC + "def f():\n    from .. import codecs\n", "arrays/x.py:3: arrays imports hpcdl.codecs"),
    ("direction", "world.py", DOC + "if TYPE_CHECKING:\n    import hpcdl.reduction.reducer\n", "world.py:3: world imports hpcdl.reduction"),
    ("direction", "arrays/x.py", DOC + "from ..launch import env, slurm\n", "arrays/x.py:2: arrays imports hpcdl.launch.slurm"),
    ("direction", "world.py", DOC + "import_module('.numpy', __package__)\n", "world.py:2: world imports hpcdl.numpy"),
    ("direction", "torch/x.py", DOC + "from hpcdl import init\n", "torch/x.py:2: torch imports hpcdl.init from the package's door"),
    ("direction", "misc.py", DOC, "misc.py:1: hpcdl.misc is in none of the rooms"),
    ("places", "world.py", DOC + "def f():\n    from mpi4py import MPI\n", "world.py:3: imports mpi4py, which only transport.mpi"),
    ("places", "codecs/x.py", DOC + "import cupy.cuda as c\n", "codecs/x.py:2: imports cupy.cuda"),
    ("places", "numpy/x.py", DOC + "import torch\n", "numpy/x.py:2: imports torch"),
    ("lengths", "world.py", "\n" * 251, "world.py:251: 251 lines, at most 250"),
    ("docstrings", "world.py", "x = 1\n", "world.py:1: the module has no docstring"),
    ("docstrings", "world.py", DOC + "def _g(): pass\ndef f(): pass\n", "world.py:3: f is public"),
    ("docstrings", "world.py", DOC + "class C: pass\n", "world.py:2: C is public"),
]


def write(root, files):
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)


@pytest.mark.parametrize(("rule", "file", "text", "said"), BREACHES)
def test_breach_is_seen(tmp_path, rule, file, text, said):
    root = tmp_path / "hpcdl"
    write(root, {**SOUND, file: text})
    [violation] = RULES[rule](root)
    assert said in violation


def test_sound_tree(tmp_path):
    """What looks like a breach and is none."""
    root = tmp_path / "hpcdl"
    more = {
        "errors.py": DOC,
        "launch/env.py": DOC + "from ..errors import HpcdlError\n",
        "arrays/__init__.py": DOC + "import cupy\nfrom ..launch import env\nfrom ..launch.env import place\n",
        "arrays/host.py": DOC + "from . import device\nimport numpy.linalg\n",
        "transport/mpi.py": DOC + "from mpi4py import MPI\nfrom .. import __version__, arrays\n",
        "cli.py": DOC + "from .launch.env import place\nfrom . import launch\n",
    }
    write(root, {**SOUND, **more})
    assert {rule: list(check(root)) for rule, check in RULES.items()} == {rule: [] for rule in RULES}

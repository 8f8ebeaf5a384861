"""The examples in docstrings."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import hpcdl

PACKAGE = Path(hpcdl.__file__).parent


def _with_examples():
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>> " in text and any(
            ">>> " in (ast.get_docstring(node) or "")
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        ):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = list(_with_examples())


def test_there_are_some():
    assert {"hpcdl.registry", "hpcdl.codecs.base", "hpcdl.collectives.layout", "hpcdl.launch.env"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, require):
    for framework in {"torch", "keras", "tensorflow"} & set(name.split(".")):
        require(framework)
    failed, tried = doctest.testmod(importlib.import_module(name), report=True)
    assert tried and not failed

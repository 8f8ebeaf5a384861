"""`import horovod` answered by this package: an unmodified script of Horovod's runs on `hpcdl.horovod`.

Why a folder on PYTHONPATH: whatever a script starts inherits it and finds the same; loader workers that are started anew too.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["answer_horovod", "as_horovod"]

_OURS = __package__
_INSTEAD = Path(__file__).parent / "instead"
#: Modules of Horovod's inside, and where their names are here.
_INSIDE = {
    "horovod.common.basics": f"{_OURS}.basics",
    "horovod.common.elastic": f"{_OURS}.elastic",
    "horovod.common.exceptions": f"{_OURS}.errors",
    "horovod.common.process_sets": f"{_OURS}.process_sets",
    "horovod.tensorflow.functions": f"{_OURS}.tensorflow",
    "horovod.tensorflow.mpi_ops": f"{_OURS}.tensorflow",
    "horovod.torch.elastic.sampler": f"{_OURS}.torch.elastic.sampler",
    "horovod.torch.elastic.state": f"{_OURS}.torch.elastic.state",
    "horovod.torch.functions": f"{_OURS}.torch",
    "horovod.torch.mpi_ops": f"{_OURS}.torch",
    "horovod.torch.optimizer": f"{_OURS}.torch",
    "horovod.torch.sync_batch_norm": f"{_OURS}.torch",
}


class _Loader(importlib.abc.Loader):
    """Gives a module of this package under another name."""

    def __init__(self, ours: str) -> None:
        self._ours = ours

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module itself, under both names."""
        module = importlib.import_module(self._ours)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already. Its own name stays."""
        module.__spec__ = self._spec


class _Finder(importlib.abc.MetaPathFinder):
    """Knows where the modules of Horovod are here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module here; where there is none, an import error that says so."""
        if fullname.split(".", maxsplit=1)[0] != "horovod":
            return None
        if fullname == "horovod.common":
            return importlib.machinery.ModuleSpec(fullname, _Loader(_OURS), is_package=True)
        ours = _INSIDE.get(fullname, _OURS + fullname.removeprefix("horovod"))
        if not _exists(ours):
            raise ModuleNotFoundError(
                f"{fullname} has no counterpart in {_OURS}; run without --as-horovod to use Horovod itself", name=fullname
            )
        return importlib.machinery.ModuleSpec(fullname, _Loader(ours), is_package=True)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def as_horovod(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that makes every Python started with it answer `import horovod` from this package; `environ` is what is set already."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(_INSTEAD), environ.get("PYTHONPATH")]))}


def answer_horovod() -> None:
    """Answer imports of Horovod in this process from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    sys.modules["horovod"] = importlib.import_module(_OURS)

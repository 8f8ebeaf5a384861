"""hpcdl: distributed training over MPI, with nothing but pip and mpirun.

``import hpcdl`` starts neither MPI nor a framework; each public name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoint.stop import preemption as preemption
    from .errors import REQUEUE as REQUEUE
    from .reduction.reducer import Reducer as Reducer
    from .start import init as init
    from .world import World as World

_HOME = {
    "init": ".start",
    "World": ".world",
    "Reducer": ".reduction.reducer",
    "preemption": ".checkpoint.stop",
    "REQUEUE": ".errors",
}
_MODULES = {"checkpoint", "codecs", "errors", "keras", "numpy", "torch"}
__all__ = ["REQUEUE", "Reducer", "World", "__version__", "init", "preemption"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})

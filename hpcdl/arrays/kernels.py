"""CUDA kernels: source text here, compiled at run time, for the device at hand, by the library that owns the arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

__all__ = ["CAST", "FLOATS", "OPTIONS", "HasKernels", "source_of"]

_CUDA = Path(__file__).with_name("cuda")
FLOATS = _CUDA / "floats.cuh"
CAST = FLOATS, _CUDA / "cast.cu"

#: Of the compiler. Why no contraction: a fused multiply-add rounds once where a processor rounds twice, and replicas would differ.
OPTIONS = ("--std=c++17", "--fmad=false")


@runtime_checkable
class HasKernels(Protocol):
    """An array library that runs kernels."""

    def launch(self, files: Sequence[Path], name: str, blocks: int, threads: int, *args: Any) -> None:
        """Queue kernel `name` of the source that `files` are together, on the current stream; compile it first if need be.

        args: arrays for pointers (None for a null pointer) and NumPy scalars of exactly the parameters' types.
        """
        ...


@lru_cache(maxsize=64)
def source_of(files: tuple[Path, ...]) -> str:
    """The source that `files` are, one after the other."""
    return "\n".join(file.read_text(encoding="utf-8") for file in files)

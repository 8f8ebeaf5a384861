"""Codecs on a device: one kernel, one read and one write of memory, for whatever the executor does with a chunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..arrays import Array, of
from ..arrays.kernels import FLOATS, HasKernels
from .base import BLOCK

__all__ = ["BlockKernels", "HasBlockKernels", "block_kernels"]

_CUDA = Path(__file__).with_name("cuda")
_THREADS = 256
_BLOCKS_AT_ONCE = _THREADS // 32 * 2  # of a codec, by one block of threads: see kernels.cuh


@dataclass(frozen=True)
class BlockKernels:
    """The kernels of a codec whose blocks are encoded by themselves, from ``cuda/<file>.cu``: bit for bit what the codec does on the host.

    All work is queued on the current stream; nothing waits. Arrays are contiguous and float32, wires are bytes. `file` may be a path, too.
    stream, first, drawn: where random bits come from, for a codec that draws some.
    """

    file: str
    stream: int = 0
    first: int = 0
    drawn: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The source."""
        return FLOATS, _CUDA / "blocks.cuh", _CUDA / f"{self.file}.cu", _CUDA / "kernels.cuh"

    def encode(self, x: Array, wire: Array) -> None:
        """wire = encoded `x`. Reads 4n bytes, writes the wire."""
        self._launch("encode", x, x.size, x, wire, np.int64(x.size), *self._chance())

    def encode_with_feedback(self, x: Array, residual: Array | None, scale: float | None, settle: bool, wire: Array) -> None:
        """wire = encoded ``(x + residual) * scale``; residual = what the wire lost of it; with `settle`, x = what the wire says.

        Without `settle` or without `residual`, those stay as they are.
        """
        how = np.float32(1 if scale is None else scale), np.int32(scale is not None), np.int32(settle)
        self._launch("encode_with_feedback", x, x.size, x, residual, *how, wire, np.int64(x.size), *self._chance())

    def decode(self, wire: Array, out: Array) -> None:
        """out = what `wire` says. Reads the wire, writes 4n bytes."""
        self._decode(wire, out, 0)

    def add(self, wire: Array, out: Array) -> None:
        """out += what `wire` says. Reads the wire and 4n bytes, writes 4n bytes."""
        self._decode(wire, out, 1)

    def take_off(self, wire: Array, out: Array) -> None:
        """out -= what `wire` says."""
        self._decode(wire, out, -1)

    def _decode(self, wire: Array, out: Array, how: int) -> None:
        self._launch("decode", out, out.size, wire, out, np.int64(out.size), np.int32(how))

    def _chance(self) -> tuple[Any, ...]:
        return np.uint64(self.stream), np.uint64(self.first), np.int32(self.drawn)

    def _launch(self, name: str, x: Array, n: int, *args: Any) -> None:
        if n:
            library: Any = of(x)
            library.launch(self.files, name, -(-n // (BLOCK * _BLOCKS_AT_ONCE)), _THREADS, *args)


@runtime_checkable
class HasBlockKernels(Protocol):
    """A codec that has kernels."""

    @property
    def kernels(self) -> BlockKernels:
        """Its kernels."""
        ...


def block_kernels(codec: object, x: Array) -> BlockKernels | None:
    """The kernels of `codec` for arrays like `x`: float32 on a device that runs them; else None."""
    if isinstance(x, np.ndarray) or x.dtype != np.float32 or not isinstance(codec, HasBlockKernels):
        return None
    return codec.kernels if isinstance(of(x), HasKernels) else None

"""Top-k on a device: radix select, then picking in order. See cuda/topk.cu; nothing waits for the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..arrays.kernels import FLOATS

__all__ = ["FILES", "scatter", "select"]

FILES = FLOATS, Path(__file__).with_name("cuda") / "topk.cu"
_BINS, _TILE, _LEVELS = 2048, 4096, 3  # as there
_FEW = 1 << 15  # so many elements take one block of threads less time than ten launches
_ONE, _MANY = 1024, 256  # threads of a block that works alone, or among others
_MOST_BLOCKS = 1024  # that count together: more have more counts to add up than elements to count


def select(library: Any, x: Array, places: Array, values: Array) -> None:
    """Write where the k largest magnitudes of float32 `x` are (uint32 (k,), ascending; ties: lowest) and what is there (float32 (k,))."""
    n, k = np.int64(x.size), np.uint32(places.size)
    if not k:
        return
    if n <= _FEW:
        library.launch(FILES, "select_few", 1, _ONE, x, n, k, places, values)
        return
    tiles = -(-x.size // _TILE)
    search, bins, before = library.empty(2, "u4"), library.empty(_BINS, "u4"), library.empty(tiles, "u8")
    library.launch(FILES, "begin", 1, _ONE, search, bins, k)
    for level in range(_LEVELS):
        library.launch(FILES, "count_bits", min(tiles, _MOST_BLOCKS), _MANY, x, n, np.int32(level), search, bins)
        library.launch(FILES, "find_bits", 1, _ONE, np.int32(level), search, bins)
    library.launch(FILES, "count_tiles", tiles, _MANY, x, n, search, before)
    library.launch(FILES, "add_up_tiles", 1, _ONE, before, np.int64(tiles))
    library.launch(FILES, "pick_tiles", tiles, _MANY, x, n, search, before, places, values)


def scatter(library: Any, places: Array, values: Array, out: Array, how: int) -> None:
    """out[places] = values (how = 0), += (1) or -= (-1). Places are different; `out` is float32."""
    if places.size:
        blocks = -(-places.size // _MANY)
        library.launch(FILES, "scatter", blocks, _MANY, places, values, np.uint32(places.size), out, np.int64(out.size), np.int32(how))

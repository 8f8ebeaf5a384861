"""Models that were saved, ready to be trained on by all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from .compression import Compression
from .optimizer import DistributedOptimizer

__all__ = ["load_model"]


def load_model(
    filepath: Any,
    custom_optimizers: Iterable[type] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    compression: Any = Compression.none,
    legacy_opts: bool = False,
) -> Any:
    """A model as Keras loads it, its optimizer, with its state, distributed. custom_optimizers, custom_objects: classes that it needs.

    legacy_opts: of Keras 2, does nothing here.
    """
    named = {kind.__name__: kind for kind in custom_optimizers or ()}
    model = keras.models.load_model(filepath, custom_objects={**named, **(custom_objects or {})})
    if model.optimizer is not None:
        DistributedOptimizer(model.optimizer, compression=compression)
    return model

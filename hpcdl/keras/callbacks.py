"""What `fit` is to do besides: replicas that begin alike."""

from __future__ import annotations

from typing import Any

import keras

from ..world import World
from .attach import attach

__all__ = ["BroadcastVariables"]


class BroadcastVariables(keras.callbacks.Callback):
    """Before the first step: weights and the optimizer's variables are rank 0's, also those that the first step makes. See `attach`."""

    def __init__(self, world: World | None = None) -> None:
        super().__init__()
        self._world = world

    def set_model(self, model: Any) -> None:
        """Called by Keras, before the train step is compiled."""
        super().set_model(model)
        attach(model, self._world)

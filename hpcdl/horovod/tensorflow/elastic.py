"""Elastic training with TensorFlow: variables, and models of Keras, that are committed and restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ..basics import rank
from ..elastic import ObjectState
from ..keras.elastic import KerasState as TensorFlowKerasState
from ..keras.elastic import run
from ..objects import broadcast_object
from .variables import broadcast_variables

__all__ = ["TensorFlowKerasState", "TensorFlowState", "run"]


class TensorFlowState(ObjectState):
    """variables: a list of tf.Variable; more by name: anything that can be pickled. session: of TensorFlow 1, not supported here."""

    def __init__(self, variables: Sequence[Any] | None = None, session: Any = None, **kwargs: Any) -> None:
        if session is not None:
            raise NotImplementedError("sessions of TensorFlow 1 have no elastic state here; use eager variables")
        self.variables = tf.compat.v1.global_variables() if variables is None else list(variables)
        self._keep()
        super().__init__(bcast_object=broadcast_object, get_rank=rank, **kwargs)

    def save(self) -> None:
        """Remember all of it as it is."""
        self._keep()
        super().save()

    def restore(self) -> None:
        """Come back to the last commit."""
        for v, value in zip(self.variables, self._values, strict=True):
            v.assign(value)
        super().restore()

    def sync(self) -> None:
        """Take over rank 0's state. Collective."""
        broadcast_variables(self.variables, 0)
        self._keep()
        super().sync()

    def _keep(self) -> None:
        self._values = [v.numpy() for v in self.variables]

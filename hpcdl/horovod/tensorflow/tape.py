"""`DistributedGradientTape`: TensorFlow's tape, whose gradients are those of all ranks."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ..arguments import groups_of, identity
from ..basics import Average
from ..keras.optimizer import weights_of
from ..process_sets import ProcessSet, global_process_set
from .compression import Compression
from .gradients import Gradients

__all__ = ["DistributedGradientTape", "PartialDistributedGradientTape"]


class _Reducing:
    """Mixed into the class of the tape that is wrapped."""

    _gradients: Gradients

    def register_local_source(self, source: Any) -> None:
        """The gradient of `source` stays this rank's own."""
        self._gradients.local.add(identity(source))

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        use_generic_names: bool = False,
        unconnected_gradients: Any = tf.UnconnectedGradients.NONE,
    ) -> Any:
        """As the tape's own, reduced over all ranks. use_generic_names: names do not tell that they come from a tape."""
        found = super().gradient(target, sources, output_gradients, unconnected_gradients)  # type: ignore[misc]
        reduced = self._gradients.reduce(tf.nest.flatten(found), tf.nest.flatten(sources), use_generic_names)
        return tf.nest.pack_sequence_as(sources, reduced)

    def get_local_and_global_gradients(
        self, target: Any, sources: Any, output_gradients: Any = None, use_generic_names: bool = False
    ) -> tuple[list[Any], list[Any]]:
        """The pairs of source and gradient: first those that stay this rank's own, then the others."""
        gradients = self.gradient(target, sources, output_gradients, use_generic_names)
        pairs = list(zip(sources, gradients, strict=True))
        local = [identity(source) in self._gradients.local for source in sources]
        return [p for p, mine in zip(pairs, local, strict=True) if mine], [p for p, mine in zip(pairs, local, strict=True) if not mine]


def DistributedGradientTape(  # noqa: N802 - Horovod's name
    gradtape: Any,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
) -> Any:
    """A tape with what `gradtape` has recorded, whose `gradient` is reduced over all ranks.

    compression: see `Compression`. sparse_as_dense: IndexedSlices become dense instead of being gathered. op: Average, Sum, Adasum, … .
    gradient_predivide_factor: averages are divided before and after the sum, which is exact here either way. groups: a number of groups,
    or lists of variables, that are reduced together; num_groups is its older name. process_set: the ranks that take part; for the others
    it is a plain tape. scale_local_gradients: those of sources registered as local are divided by the number of ranks. The devices are
    Horovod's and do nothing here. Raises InvalidArgument for settings that cannot be.
    """
    gradients = Gradients(
        "DistributedGradientTape",
        compression,
        sparse_as_dense,
        op,
        gradient_predivide_factor,
        groups_of(groups, num_groups),
        process_set,
        scale_local_gradients,
    )
    kind: Any = type(type(gradtape).__name__, (_Reducing, type(gradtape)), {"__module__": __name__})
    new = kind.__new__(kind)
    new.__dict__.update(gradtape.__dict__)
    new._gradients = gradients
    return new


def PartialDistributedGradientTape(  # noqa: N802 - Horovod's name
    gradtape: Any,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """`DistributedGradientTape`, for which the trainable weights of `local_layers`, layers of Keras, are local sources."""
    tape = DistributedGradientTape(
        gradtape,
        device_dense,
        device_sparse,
        compression,
        sparse_as_dense,
        op,
        gradient_predivide_factor,
        num_groups,
        groups,
        process_set,
        scale_local_gradients,
    )
    for weight in weights_of(local_layers):
        tape.register_local_source(weight)
    return tape

"""Losses over logits: each gives the mean over the samples and its gradient in the output.

`LOSSES` knows them by name. In all of them `output` is float of shape ``(n, outputs)``; n = 0 gives the loss 0.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from .. import arrays
from ..errors import InvalidArgument
from ..registry import Registry

__all__ = ["LOSSES", "BinaryCrossEntropy", "CrossEntropy", "Loss", "MeanSquaredError"]


class Loss(Protocol):
    """What a trainer needs of a loss."""

    def __call__(self, output: Any, target: Any) -> tuple[Any, Any]:
        """The loss, a mean over the n samples, as a scalar where `output` lives; and its gradient, in the shape and dtype of `output`."""

    def check(self, target: Any, outputs: int) -> None:
        """Raise InvalidArgument where `target` cannot belong to a network with so many outputs. Reads all of it: once per data set."""

    def correct(self, output: Any, target: Any) -> Any:
        """How many samples are predicted right, as a scalar where `output` lives; NaN where the loss has no such notion."""


class CrossEntropy:
    """Softmax cross-entropy for one class out of k: mean over samples of ``log(sum_j exp(z_j)) - z_target`` (Bishop 2006, eq. 4.108).

    `target` holds class numbers 0 … k-1, an integer array of shape ``(n,)``.
    """

    def __call__(self, output: Any, target: Any) -> tuple[Any, Any]:
        xp = arrays.of(output).xp
        rows = xp.arange(len(output))
        samples = max(len(output), 1)
        shifted = output - output.max(axis=1, keepdims=True)  # exp cannot overflow
        gradient = xp.exp(shifted)
        total = gradient.sum(axis=1, keepdims=True)
        value = (xp.log(total).sum() - shifted[rows, target].sum()) / samples
        gradient /= total
        gradient[rows, target] -= 1
        gradient /= samples
        return value, gradient

    def check(self, target: Any, outputs: int) -> None:
        if target.ndim != 1 or target.dtype.kind not in "iu":
            raise InvalidArgument(f"cross_entropy: targets are integers of shape (n,); got {target.dtype} of shape {target.shape}")
        if len(target):
            lowest, highest = target.min().item(), target.max().item()
            if lowest < 0 or highest >= outputs:
                raise InvalidArgument(f"cross_entropy: targets from {lowest} to {highest}; {outputs} outputs know 0 to {outputs - 1}")

    def correct(self, output: Any, target: Any) -> Any:
        return (output.argmax(axis=1) == target).sum()


class BinaryCrossEntropy:
    """Cross-entropy of independent yes/no outputs, from logits: mean over samples and outputs of ``log(1 + exp(z)) - t z``.

    `target` has the shape of `output`, with values from 0 to 1. A sample is right where all its outputs are on the right side of 1/2.
    Computed as ``max(z, 0) - t z + log(1 + exp(-|z|))``, which neither overflows nor loses small values.
    """

    def __call__(self, output: Any, target: Any) -> tuple[Any, Any]:
        xp = arrays.of(output).xp
        _same_shape("binary_cross_entropy", output, target)
        elements = max(output.size, 1)
        value = (xp.maximum(output, 0) - target * output + xp.log1p(xp.exp(-xp.abs(output)))).sum() / elements
        sigmoid = 0.5 * (1 + xp.tanh(0.5 * output))
        return value, (sigmoid - target) / elements

    def check(self, target: Any, outputs: int) -> None:
        _check_floats("binary_cross_entropy", target, outputs)
        if len(target):
            lowest, highest = target.min().item(), target.max().item()
            if not 0 <= lowest <= highest <= 1:  # NaN is refused too
                raise InvalidArgument(f"binary_cross_entropy: targets lie between 0 and 1; got {lowest} to {highest}")

    def correct(self, output: Any, target: Any) -> Any:
        return ((output > 0) == (target > 0.5)).all(axis=1).sum()


class MeanSquaredError:
    """Mean over samples and outputs of ``(output - target)**2``. `target` has the shape of `output`."""

    def __call__(self, output: Any, target: Any) -> tuple[Any, Any]:
        _same_shape("mean_squared_error", output, target)
        elements = max(output.size, 1)
        difference = output - target
        return (difference * difference).sum() / elements, difference * (2 / elements)

    def check(self, target: Any, outputs: int) -> None:
        _check_floats("mean_squared_error", target, outputs)

    def correct(self, output: Any, target: Any) -> float:
        return math.nan


def _same_shape(loss: str, output: Any, target: Any) -> None:
    """Why: (n,) against (n, 1) would broadcast to (n, n) and train on nonsense."""
    if output.shape != target.shape:
        raise InvalidArgument(f"{loss}: targets of shape {target.shape} for outputs of shape {output.shape}; the two must be the same")


def _check_floats(loss: str, target: Any, outputs: int) -> None:
    if target.ndim != 2 or target.shape[1] != outputs or target.dtype.kind != "f":
        raise InvalidArgument(f"{loss}: targets are floats of shape (n, {outputs}); got {target.dtype} of shape {target.shape}")


LOSSES: Registry[Loss] = Registry("loss")
LOSSES.register("cross_entropy", CrossEntropy)
LOSSES.register("binary_cross_entropy", BinaryCrossEntropy)
LOSSES.register("mean_squared_error", MeanSquaredError)

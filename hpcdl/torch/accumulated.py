"""Gradients that a rank has added up and not reduced yet, so that each batch in the sum counts by its own samples."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch

from ..errors import InvalidArgument
from .samples import Samples

__all__ = ["Accumulated"]


class Accumulated:
    """The sum in ``grad`` of local passes, and the one share by which the coming reduction will weight all of it.

    Batches may be cut unevenly (5 samples in parts of 3 and 2), so when one comes with another share, what is there is scaled such that the
    new share fits it too. A batch of which this rank has nothing cannot be fitted that way: what is there is set aside while its gradients
    come, and put back in their place.

    parameters: by number, with names.
    """

    def __init__(self, parameters: Mapping[int, tuple[str, torch.nn.Parameter]], place: str, ranks: int) -> None:
        self._parameters, self._place, self._ranks = parameters, place, ranks
        self._kept: set[int] = set()  # parameters to which local passes have added
        self._share = 0.0  # that of their sum
        self._now = 0.0  # that of the pass under way
        self._aside: dict[int, torch.Tensor | None] | None = None

    def enter(self, samples: Samples, reduce: bool, late: bool) -> None:
        """A pass begins. late: it has added to a gradient already. Raises InvalidArgument if that cannot be told from what was there."""
        self._now = samples.share(self._ranks)
        if not self._kept and (reduce or self._now):
            return
        if self._kept and self._now == self._share:
            return
        if late:
            raise InvalidArgument(
                f"{self._place}: batches with other shares of the samples are added up, and the pass could not be seen to begin; cure: let "
                "the model return its tensors in lists, tuples, dictionaries or dataclasses, or give all ranks batches of the same size"
            )
        if self._now:
            self._rescale(self._share / self._now)
            self._share = self._now
        else:
            self._aside = {i: p.grad for i, (_, p) in self._parameters.items()}
            for _, p in self._parameters.values():
                p.grad = None

    def add(self, i: int) -> None:
        """The pass is local, and has added to the gradient of parameter `i`."""
        if self._aside is None:
            self._kept.add(i)
            self._share = self._now

    @property
    def set_aside(self) -> bool:
        """Whether what is in ``grad`` now is of a batch that does not count."""
        return self._aside is not None

    def put_back(self) -> None:
        """The pass is over: what was set aside is there again."""
        if self._aside is not None:
            for i, gradient in self._aside.items():
                self._parameters[i][1].grad = gradient
            self._aside = None

    def weigh(self, samples: Samples) -> Samples:
        """By what the reduction is to weight, where the present batch has `samples`."""
        if not self._kept or self._now or samples.mine is None:
            return samples
        return Samples(self._share * (1 if samples.total is None else samples.total), samples.total)

    def left_out(self, trained: Container[int]) -> str | None:
        """The name of a parameter with gradients in its sum that is not among the trained ones any more."""
        for i in sorted(self._kept):
            name, p = self._parameters[i]
            if i not in trained and p.grad is not None and bool((p.grad != 0).any()):
                return name
        return None

    def clear(self) -> None:
        """All was reduced."""
        self._kept.clear()

    def _rescale(self, factor: float) -> None:
        for i in self._kept:
            gradient = self._parameters[i][1].grad
            if gradient is not None:
                gradient.detach().mul_(factor)

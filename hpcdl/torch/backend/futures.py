"""Futures whose callbacks may communicate, on whichever thread they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.futures import Future

from ...collectives.branch import Branch

__all__ = ["BranchFuture"]


class BranchFuture(Future[Any]):
    """A future of an operation's result. What its callbacks start, and the callbacks of these, is counted in `branch`.

    device: the GPU of the result; who waits has its current stream there go on behind that in which the future was completed.
    """

    def __init__(self, branch: Branch, device: torch.device | None = None) -> None:
        super().__init__(devices=None if device is None else [device])
        self._branch, self._device = branch, device

    def then(self, callback: Callable[[Any], Any]) -> BranchFuture:
        """A future of what `callback(self)` returns, or raises."""
        child = BranchFuture(self._branch, self._device)

        def run(ended: object) -> None:
            with self._branch:
                try:
                    value = callback(self)
                except BaseException as error:  # SystemExit too: whoever waits for the child must hear of it
                    child.fail(error)
                else:
                    child.set_result(value)

        super().add_done_callback(run)
        return child

    def fail(self, error: BaseException) -> None:
        """End in `error`: `value` and `wait` raise it, and C++ does where it looks for tensors."""

        def raise_it(value: object) -> NoReturn:
            raise error

        self._set_unwrap_func(raise_it)
        self.set_result(_Failed(error))


class _Failed:
    """Stands where tensors should be. C++ looks for them by pickling what it is given, and then raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> NoReturn:
        raise self._error

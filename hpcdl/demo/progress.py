"""What the demo shows while it trains: a bar on a terminal, one line per epoch elsewhere, nothing but on rank 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Show", "bar", "lines", "nothing"]


class Show(Protocol):
    """What the training loop tells of itself."""

    def step(self) -> None:
        """A step is done."""

    def epoch(self, epoch: int, loss: float) -> None:
        """Epoch number `epoch`, from 0, is done, with this mean training loss."""


class _Nothing:
    def step(self) -> None:
        pass

    def epoch(self, epoch: int, loss: float) -> None:
        pass


class _Lines:
    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._begin = perf_counter()

    def step(self) -> None:
        pass

    def epoch(self, epoch: int, loss: float) -> None:
        print(f"epoch {epoch + 1} of {self._epochs}: training loss {loss:.4f}, {perf_counter() - self._begin:.1f} s", flush=True)


class _Bar:
    def __init__(self, progress: Progress, epochs: int, steps: int) -> None:
        self._progress = progress
        self._epochs = epochs
        self._task = progress.add_task("", total=epochs * steps, epoch=0, epochs=epochs, loss=float("nan"))

    def step(self) -> None:
        self._progress.advance(self._task)

    def epoch(self, epoch: int, loss: float) -> None:
        self._progress.update(self._task, epoch=epoch + 1, loss=loss)


@contextmanager
def nothing() -> Iterator[Show]:
    """For the ranks that stay silent."""
    yield _Nothing()


@contextmanager
def lines(epochs: int) -> Iterator[Show]:
    """One plain line per epoch."""
    yield _Lines(epochs)


@contextmanager
def bar(epochs: int, steps: int, columns: int) -> Iterator[Show]:
    """A progress bar over `epochs` of `steps` steps each, on a terminal of `columns` columns.

    Why told the width: a rank's output goes through the launcher's pipe, so it cannot ask the terminal itself.
    """
    epoch, loss = TextColumn("epoch {task.fields[epoch]} of {task.fields[epochs]}"), TextColumn("loss {task.fields[loss]:.4f}")
    with Progress(epoch, BarColumn(), loss, TimeRemainingColumn(), console=Console(force_terminal=True, width=columns)) as progress:
        yield _Bar(progress, epochs, steps)

"""A `fit` that is interrupted, in the midst of an epoch too, and goes on when the same script is started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import keras

from ..agree import compare
from ..checkpoint import Checkpoint, RandomStates
from ..checkpoint.stop import preemption
from ..errors import InvalidArgument
from ..world import World
from .asked import Call, fitting
from .attach import attach, built
from .parts import Codecs, OfRank, Weights
from .place import Place
from .rates import first_rate, note_rate, rate
from .replicas import optimizers_of
from .start import default_world

__all__ = ["BackupAndRestore"]


class BackupAndRestore(keras.callbacks.Callback):
    """Keras's BackupAndRestore for many ranks, by `hpcdl.checkpoint`: the script that is started again goes on where it was saved.

    After SIGTERM or SIGUSR1 to any rank, or `margin` seconds before the end of a Slurm job, all ranks save after the same batch, and `fit`
    leaves by SystemExit with code `hpcdl.REQUEUE`; see `hpcdl.preemption`. On as many ranks the loss curve and the weights are then bitwise
    what they would have been: weights, the optimizers' variables, what codecs have dropped, moving averages, dropout, metrics of the epoch
    under way, the place in a `shard`, Python's and NumPy's random states. On another number of ranks it goes on from the same batch.

    Other data than a `shard` are read from their beginning, and the batches that were done dropped: the same, if they come in the same
    order. What other callbacks remember (EarlyStopping's patience, a History) is not saved.

    backup_dir: a folder that all ranks see, one for each `fit`. save_freq: "epoch", or a number of batches. delete_checkpoint: remove the
    files when `fit` is through; without it a later start finds it through, and does nothing in it. keep: the newest so many stay meanwhile,
    and one that is damaged is passed over for the one before, so double_checkpoint, which Keras knows, changes nothing. A fit in which the
    validation takes long is ended at its end only, since an epoch's last batch is saved with all that belongs to the epoch.

    Saving and restoring are collective; a thread writes. Raises InvalidArgument for a bad argument, outside of `fit`, and for a second
    `fit` that would take the first one's checkpoint for its own; DataError where the checkpoint is of another model, or of another cut of
    the data.
    """

    def __init__(
        self,
        backup_dir: str | Path,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        keep: int = 3,
        margin: float = 60.0,
        world: World | None = None,
    ) -> None:
        super().__init__()
        if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq > 0):
            raise InvalidArgument(f"save_freq must be 'epoch' or a number of batches, got {save_freq!r}")
        self.backup_dir, self.save_freq, self.delete_checkpoint = backup_dir, save_freq, delete_checkpoint
        self.world = default_world() if world is None else world
        self._keep, self._margin = keep, margin
        self._open = ExitStack()
        self._place: Place
        self._through = False
        self._go_on: Callable[[], None] | None = None

    def set_model(self, model: Any) -> None:
        """Called by Keras, before the train step is compiled."""
        super().set_model(model)
        attach(model, self.world)

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore what there is. Collective."""
        call = fitting()
        if call is None:
            raise InvalidArgument("BackupAndRestore works within fit(); in a loop of your own use hpcdl.checkpoint.Checkpoint")
        if self._through and not self.delete_checkpoint and not call.values["initial_epoch"]:
            raise InvalidArgument(
                f"{self.backup_dir} holds the fit that this BackupAndRestore was given to before, so this one would be taken for it; cure: "
                f"a folder for each fit, or initial_epoch={self._place.epoch} to go on with that one"
            )
        self._open.close()  # of a fit that was given up
        self._come_last(call)
        told = [f"save_freq: {self.save_freq}", f"delete_checkpoint: {self.delete_checkpoint}"]
        compare(self.world, told, "the arguments of BackupAndRestore", cure="give the same on every rank")
        model, was_built = self.model, built(self.model)
        if not isinstance(call.values["x"], Iterator):  # of which a batch would be lost
            model._symbolic_build(iterator=call.values["epoch_iterator"])  # TensorFlow would, in the first step
            call.values["epoch_iterator"].reset()
        if not was_built:
            attach(model, self.world)
        self._place, self._of_rank, random = Place(call), OfRank(self.world, model), RandomStates()
        parts = {"model": Weights(model), "ranks": self._of_rank, "codecs": Codecs(model), "random": random, "fit": self._place}
        self._checkpoint = self._open.enter_context(Checkpoint(self.backup_dir, self.world, parts, keep=self._keep))
        first = {optimizer: first_rate(optimizer) for optimizer in optimizers_of(model)}
        restored = self._checkpoint.restore()
        for optimizer, at_first in first.items():
            note_rate(optimizer, at_first)
        if restored and self._place.under_way:
            rates, states = {optimizer: rate(optimizer) for optimizer in first}, random.rank_state_dict()
            self._go_on = partial(self._go_on_with, rates, partial(random.load_rank_state_dict, states))
        self._steps = self._saved = restored or 0
        model._initial_epoch = max(self._place.epoch, call.values["epochs"]) if self._place.ended else self._place.epoch
        self._stop = self._open.enter_context(preemption(self.world, self._checkpoint, margin=self._margin))

    def _come_last(self, call: Call) -> None:
        """Behind all other callbacks: what they do at the end of a batch or an epoch belongs to what is saved."""
        given = call.values["callbacks"]
        given.callbacks = sorted(given.callbacks, key=lambda each: each is self)  # a new list: Keras is going through the other one

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Go on in the midst of one, if that is where it was saved."""
        if self._go_on is not None:
            self._go_on()
        self._go_on = None

    def _go_on_with(self, rates: dict[Any, float], before_reading: Callable[[], None]) -> None:
        """Undo what came since then: Keras has reset the metrics, callbacks that change the rate have done so twice, and opening a
        DataLoader draws a random number.
        """
        if self._place.batch:
            self._of_rank.go_on()
            for optimizer, was in rates.items():
                if rate(optimizer) != was:
                    first = first_rate(optimizer)
                    optimizer.learning_rate = was
                    note_rate(optimizer, first)
        self._place.go_on(before_reading)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A batch, or several where Keras executes several at once. The last of an epoch counts when the epoch ends."""
        batches = self._place.batches
        done = batch + 1 if batches is None else min(batch + 1, batches)
        self._steps, self._place.batch = self._steps + done - self._place.batch, done
        if batches is not None and done < batches:
            self._after_step(between_epochs=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """An epoch, its validation included."""
        self._place.epoch, self._place.batch = epoch + 1, 0
        self._after_step(between_epochs=True)

    def _after_step(self, between_epochs: bool) -> None:
        if between_epochs if self.save_freq == "epoch" else self._steps - self._saved >= int(self.save_freq):
            self._checkpoint.save(self._steps)
            self._saved = self._steps
        try:
            self._stop(self._steps)
        except SystemExit:
            self._open.close()
            raise

    def on_train_end(self, logs: Any = None) -> None:
        """All is done. Collective."""
        self.model._initial_epoch, self._through = None, True
        if self.delete_checkpoint:
            self._checkpoint.remove()
        else:
            self._place.ended = bool(self.model.stop_training)
            self._checkpoint.save(self._steps)
        self._open.close()

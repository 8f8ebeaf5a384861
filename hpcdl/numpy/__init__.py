"""The smallest honest trainer, for NumPy and CuPy alike: an MLP, three losses, four optimizers, sharded data.

It is the oracle that the other doors are tested against and a template for hand-written NumPy or CuPy code::

    import hpcdl
    from hpcdl.numpy import MLP, Trainer, evaluate

    world = hpcdl.init()
    trainer = Trainer(world, MLP((64, 512, 10)), loss="cross_entropy", optimizer="adam", codec="fp16")
    trainer.fit(x, y, batch_size=128, epochs=20)      # the same x, y on every rank; each trains on its shard
    print(evaluate(trainer.model, trainer.loss, x_test, y_test, world))

All mathematics runs in the module that owns the arrays given (``hpcdl.arrays.of(x).xp``); nothing is copied to the host unasked.
"""

from ..shards import Shards
from .losses import LOSSES, BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from .metrics import Score, evaluate
from .mlp import MLP
from .optimizers import OPTIMIZERS, SGD, Adam, Momentum, Optimizer, RMSProp
from .trainer import Spent, Trainer

__all__ = [
    "LOSSES",
    "MLP",
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Loss",
    "MeanSquaredError",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "Score",
    "Shards",
    "Spent",
    "Trainer",
    "evaluate",
]

"""What the programs here share: data, models, one process beside many ranks; each case tells how it ended."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

import hpcdl.keras as hk

sys.path.append(str(Path(__file__).parents[2]))
from harness.tell import joined, tell  # noqa: F401  (joined is every.py's)

warnings.filterwarnings("ignore")
BACKEND = keras.backend.backend()
SAMPLES, FEATURES, CLASSES = 90, 8, 3
BATCH, EPOCHS, ADAM = 30, 3, 1e-2


def data(samples: int = SAMPLES, dtype: str = "float32") -> tuple[Any, Any]:
    """Inputs and labels, the same on every rank."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, FEATURES))
    return x.astype(dtype), (x @ rng.normal(size=(FEATURES, CLASSES))).argmax(1)


def network(seed: int, known: bool = True, norm: bool = False) -> Any:
    """A small classifier; without `known` its first variables come with its first batch."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(16, activation="tanh"),
        *([keras.layers.BatchNormalization()] if norm else []),
        keras.layers.Dense(CLASSES),
    ]
    return keras.Sequential([*([keras.Input((FEATURES,))] if known else []), *layers])


def loss(**options: Any) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


class Sides:
    """One process on the joined batch, and the ranks."""

    def __init__(self) -> None:
        self.world = hk.init()
        self.rank, self.size = self.world.rank, self.world.size

    def part(self, *arrays: Any, batch: int) -> Any:
        """This rank's rows of every batch of so many, one batch after the other."""
        cuts = [[np.array_split(a[i : i + batch], self.size)[self.rank] for i in range(0, len(a), batch)] for a in arrays]
        return [np.concatenate(cut) for cut in cuts]

    def same(self, model: Any, reference: Any = None, tolerance: float = 2e-5) -> None:
        """The replicas are bitwise equal, and equal to the model of one process."""
        for i, weight in enumerate(model.get_weights()):
            w = np.ascontiguousarray(weight)
            everyone = self.world.allgather(w.reshape(1, -1).view(np.uint8))
            assert (everyone == everyone[0]).all(), f"replicas differ in weight {i}"
            if reference is not None:
                apart = np.abs(w - reference.get_weights()[i]).max()
                assert apart <= tolerance, f"weight {i}: {apart} from one process"


def both(s: Any, optimizer=lambda: keras.optimizers.Adam(1e-2), make=network, tolerance=2e-5, epochs=EPOCHS, codec=None, **settings):
    """`fit` by one process, and by all ranks."""
    x, y = data()
    alone = make(1)
    alone.compile(optimizer(), loss(), **settings)
    alone.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
    ours = make(1 + s.rank)
    ours.compile(hk.DistributedOptimizer(optimizer(), codec=codec), loss(), **settings)
    mine = s.part(x, y, batch=BATCH)
    ours.fit(*mine, batch_size=BATCH // s.size, epochs=epochs, shuffle=False, verbose=0, callbacks=[hk.BroadcastVariables()])
    s.same(ours, alone, tolerance)
    return ours, alone


def compiled(model: Any, distributed: bool, **more: Any) -> Any:
    """`model`, with Adam."""
    optimizer = keras.optimizers.Adam(ADAM)
    model.compile(hk.DistributedOptimizer(optimizer) if distributed else optimizer, loss(), **more)
    return model


def run(cases: dict[str, Any]) -> None:
    """Every case, on this backend."""
    sides = Sides()
    tell(cases, sides.rank, sides, after=sides.world.barrier)

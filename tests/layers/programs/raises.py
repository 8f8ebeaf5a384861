"""One rank raises while the other waits for it: in a callback, or in its data; or it ends, as its `fit` has fewer epochs."""

from __future__ import annotations

import sys

import keras
import side
from side import data, loss, network

import hpcdl.keras as hk

s = side.Sides()
x, y = data(90)


class Bad(keras.utils.PyDataset):
    """The second batch of rank 1 cannot be read."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        if s.rank == 1 and i == 2:
            raise OSError("the disk is gone")
        return x[i * 30 : i * 30 + 30], y[i * 30 : i * 30 + 30]


class Raise(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if s.rank == 1 and batch == 1 and sys.argv[1] == "callback":
            raise OSError("the disk is gone")


model = network(1)
model.compile(hk.DistributedOptimizer(keras.optimizers.Adam()), loss())
shared = hk.shard(Bad(), own=True) if sys.argv[1] == "data" else hk.shard(x, y, batch_size=30)
model.fit(shared, epochs=2 - s.rank if sys.argv[1] == "epochs" else 50, verbose=0, callbacks=[hk.BroadcastVariables(), Raise()])
print("nobody raised", flush=True)

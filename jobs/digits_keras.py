"""The short version: a small network on 1,797 real 8x8 images, data parallel.   KERAS_BACKEND=jax hpcdl run -n 4 jobs/digits_keras.py

Ended half way, the same line goes on where it ended.
"""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

import hpcdl.keras as hk

hk.init(seed=0)
[folder] = sys.argv[1:] or ["digits_keras_backup"]  # removed at the end
images, labels = load_digits(return_X_y=True)
images = images.astype("float32") / 16
train, test = np.split(np.random.default_rng(0).permutation(len(images)), [1500])
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(hk.DistributedOptimizer(keras.optimizers.Adam(3e-3), codec="fp16"), loss, metrics=["accuracy"])
data = hk.shard(images[train], labels[train], batch_size=64)  # 64 images in each step, whatever the number of ranks
callbacks = [hk.BroadcastVariables(), hk.AverageMetrics(), hk.BackupAndRestore(folder)]
model.fit(data, epochs=20, verbose=2 if hk.rank() == 0 else 0, callbacks=callbacks)
result = model.evaluate(hk.shard(images[test], labels[test]), return_dict=True, verbose=0)  # of all ranks, on every rank
if hk.rank() == 0:
    print(f"{hk.size()} ranks: {result['accuracy']:.2%} of {len(labels[test])} test images right")

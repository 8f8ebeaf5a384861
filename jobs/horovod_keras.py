"""A Keras script in Horovod's style, with nothing of hpcdl in it.   hpcdl run --as-horovod -np 4 jobs/horovod_keras.py"""

import horovod.keras as hvd
import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

hvd.init()
keras.utils.set_random_seed(hvd.rank())

images, labels = load_digits(return_X_y=True)  # 1,797 real 8x8 images
x_train, x_test, y_train, y_test = train_test_split(images.astype("float32") / 16, labels, test_size=297, random_state=0)
x_train, y_train = x_train[hvd.rank() :: hvd.size()], y_train[hvd.rank() :: hvd.size()]

model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
rate = 1e-3 * hvd.size()
optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(rate), compression=hvd.Compression.fp16)
model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])

callbacks = [
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    hvd.callbacks.MetricAverageCallback(),
    hvd.callbacks.LearningRateWarmupCallback(initial_lr=rate, warmup_epochs=3, verbose=1),
    keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=4),
]
model.fit(
    x_train,
    y_train,
    batch_size=16,
    epochs=15,
    callbacks=callbacks,
    validation_data=(x_test, y_test),
    verbose=2 if hvd.rank() == 0 else 0,
)

loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(f"rank {hvd.rank()} of {hvd.size()}: {accuracy:.2%} of {len(y_test)} test images right")

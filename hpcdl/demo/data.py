"""The demo's images: scikit-learn's digits or a folder of MNIST-format files, read by rank 0 and broadcast."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, HpcdlError
from ..numpy.idx import ImageData, read_folder
from ..world import World

__all__ = ["Dataset", "load"]

TEST_SHARE = 0.2


class Dataset(NamedTuple):
    """Pixels as float32 from 0 to 1, shape ``(n, pixels)``, and class numbers, int64 of shape ``(n,)``."""

    name: str
    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
    classes: int

    def on(self, xp: Any) -> Dataset:
        """The same in memory of `xp`: copied once, before training."""
        names = ("train_x", "train_y", "test_x", "test_y")
        return self._replace(**{name: xp.asarray(getattr(self, name)) for name in names})


def load(world: World, folder: Path | None, seed: int) -> Dataset:
    """The data set in `folder`, or load_digits split by `seed`. Why rank 0 alone reads: forty ranks would read a shared disk forty times.

    Raises DataError on every rank where rank 0 cannot read it.
    """
    failure: HpcdlError | None = None
    images: ImageData | None = None
    sizes = np.zeros(4, np.int64)
    if world.rank == 0:
        try:
            images = _digits(seed) if folder is None else read_folder(folder)
            sizes[:] = *images.train_images.shape, len(images.test_labels)
        except HpcdlError as error:
            failure = error
    world.broadcast(sizes)
    if sizes[0] == 0:
        raise failure or DataError(f"rank {world.rank} of {world.size}: rank 0 could not read the data; its own message says why")
    train, rows, columns, test = sizes.tolist()
    if images is None:
        shapes = (train, rows, columns), (train,), (test, rows, columns), (test,)
        images = ImageData(*(np.empty(shape, np.uint8) for shape in shapes))
    for part in images:
        world.broadcast(part)
    return _prepare(f"{rows}x{columns} {'digits' if folder is None else folder.absolute().name}", images)


def _prepare(name: str, images: ImageData) -> Dataset:
    """Scale by the largest pixel of the training set, so that 4-bit digits and 8-bit MNIST both become 0 … 1."""
    peak = np.float32(max(images.train_images.max(), 1))

    def flat(pixels: NDArray[Any]) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = pixels.reshape(len(pixels), -1).astype(np.float32) / peak
        return scaled

    classes = int(max(images.train_labels.max(), images.test_labels.max())) + 1
    train_y, test_y = images.train_labels.astype(np.int64), images.test_labels.astype(np.int64)
    return Dataset(name, flat(images.train_images), train_y, flat(images.test_images), test_y, classes)


def _digits(seed: int) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    test, train = np.split(order, [round(TEST_SHARE * len(order))])
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    return ImageData(images[train], labels[train], images[test], labels[test])

"""Reads IDX files, the format of MNIST and its relatives, plain or gzip-compressed; every way a file can be broken is a DataError.

Format (LeCun, "The MNIST database"): two zero bytes, a type code, the number of dimensions; each dimension as a big-endian uint32;
then the elements, big-endian, in C order.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

__all__ = ["ImageData", "read", "read_folder"]

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
PIECE = 1 << 20
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FETCH_AGAIN = "copy or download the file again"


class ImageData(NamedTuple):
    """Images with their labels, split into a training and a test set: uint8 ``(n, rows, columns)`` and ``(n,)``."""

    train_images: NDArray[Any]
    train_labels: NDArray[Any]
    test_images: NDArray[Any]
    test_labels: NDArray[Any]


def read(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array in the IDX file at `path`, in the machine's byte order. Compression is recognised by content, not by name.

    Raises DataError, naming the file, what was found and what is valid, for a file that is missing or unreadable, truncated, not IDX,
    of an unknown type, of another length than its sizes say, or a broken gzip stream.
    """
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not compressed:
                return _parse(file, path)
            with gzip.GzipFile(fileobj=file) as stream:
                return _parse(stream, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: broken gzip data ({error}); {FETCH_AGAIN}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give an IDX file, plain or .gz") from None


def read_folder(folder: str | os.PathLike[str]) -> ImageData:
    """The four MNIST files in `folder`, each plain or with .gz (train- and t10k-, images-idx3-ubyte and labels-idx1-ubyte).

    Raises DataError as `read` does, and for a missing file, images or labels of the wrong kind or shape, no images at all,
    another number of labels than of images, or test images of another size than the training images.
    """
    paths = [_find(Path(folder), name) for name in NAMES]
    data = ImageData(*(read(path) for path in paths))
    for path, array, dimensions in zip(paths, data, (3, 1, 3, 1), strict=True):
        if array.dtype != np.uint8 or array.ndim != dimensions or array.size == 0:
            valid = "images: uint8 of 3 dimensions, none of them 0" if dimensions == 3 else "labels: uint8 of 1 dimension, not 0"
            raise DataError(f"{path}: holds {array.dtype} of shape {array.shape}; valid here are {valid}")
    for i in (0, 2):
        if len(data[i]) != len(data[i + 1]):
            counts = f"{len(data[i])} images, but {paths[i + 1]}: {len(data[i + 1])} labels"
            raise DataError(f"{paths[i]}: {counts}; use two files that belong together")
    if data.train_images.shape[1:] != data.test_images.shape[1:]:
        sizes = [f"{rows}x{columns}" for _, rows, columns in (data.train_images.shape, data.test_images.shape)]
        raise DataError(f"{paths[2]}: images of {sizes[1]} pixels, but {paths[0]}: {sizes[0]}; use files of one data set")
    return data


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    found = "no such folder" if not folder.is_dir() else f"{len(list(folder.iterdir()))} other files there"
    raise DataError(f"{folder / name}: missing, plain and .gz ({found}); needed are {', '.join(NAMES)}, each with or without .gz")


def _parse(file: BinaryIO | gzip.GzipFile, path: str | os.PathLike[str]) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4:
        raise DataError(f"{path}: truncated, {len(magic)} bytes; an IDX file begins with 4 bytes of magic; {FETCH_AGAIN}")
    if magic[:2] != b"\0\0" or magic[3] == 0:
        raise DataError(f"{path}: magic {magic.hex(' ')} is not that of an IDX file; valid: 00 00, a type code, 1 to 255 dimensions")
    if magic[2] not in TYPES:
        known = ", ".join(f"{code:02x} ({np.dtype(name).name})" for code, name in TYPES.items())
        raise DataError(f"{path}: unknown type code {magic[2]:02x} in its third byte; valid: {known}")
    dimensions = magic[3]
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        need = f"{dimensions} dimensions need {4 + 4 * dimensions}"
        raise DataError(f"{path}: truncated in the header, {4 + len(header)} bytes; {need}; {FETCH_AGAIN}")
    shape = struct.unpack(f">{dimensions}I", header)
    dtype = np.dtype(TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    body = _at_most(file, expected + 1)
    if len(body) != expected:
        found = f"only {len(body)} bytes follow: truncated" if len(body) < expected else "more follow: the sizes lie"
        raise DataError(f"{path}: its header says {' x '.join(map(str, shape))} {dtype.name}, {expected} bytes, but {found}; {FETCH_AGAIN}")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _at_most(file: BinaryIO | gzip.GzipFile, count: int) -> bytearray:
    """Up to `count` bytes. Why in pieces: a header that lies must not make us allocate what it says."""
    body = bytearray()
    while piece := file.read(min(PIECE, count - len(body))):
        body += piece
    return body

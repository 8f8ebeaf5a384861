"""The IDX reader: good files of every type, and each way a file can be broken."""

import gzip
import struct

import numpy as np
import pytest

from hpcdl.errors import DataError
from hpcdl.numpy import idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encoded(array, shape=None):
    shape = array.shape if shape is None else shape
    code = CODES[array.dtype.str[1:]]
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def images(n, side=4):
    return np.random.default_rng(n).integers(0, 256, (n, side, side)).astype(np.uint8)


def labels(n):
    return (np.arange(n) % 10).astype(np.uint8)


def folder(path, changed=(), pack=lambda content: content, suffix=""):
    parts = dict(zip(idx.NAMES, (images(12), labels(12), images(5), labels(5)), strict=True)) | dict(changed)
    for name, array in parts.items():
        if array is not None:
            (path / f"{name}{suffix}").write_bytes(pack(encoded(array)))
    return path


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_type_and_gzip(tmp_path, code, pack):
    expected = np.arange(-6, 18).reshape(2, 3, 4).astype(code)
    (tmp_path / "file").write_bytes(pack(encoded(expected)))
    found = idx.read(tmp_path / "file")
    assert found.dtype == expected.dtype and found.dtype.isnative and found.flags.writeable
    np.testing.assert_array_equal(found, expected)


def test_empty_dimension(tmp_path):
    (tmp_path / "file").write_bytes(encoded(np.empty((0, 28), np.uint8)))
    assert idx.read(tmp_path / "file").shape == (0, 28)


GOOD = encoded(images(3))
BROKEN = {
    "empty": (b"", "0 bytes"),
    "truncated magic": (GOOD[:3], "3 bytes"),
    "truncated header": (GOOD[:10], "16"),
    "truncated body": (GOOD[:-1], "48 bytes, but only 47"),
    "no body": (GOOD[:16], "only 0 bytes"),
    "too long": (GOOD + b"x", "sizes lie"),
    "wrong magic": (b"PNG\0" + GOOD[4:], "50 4e 47 00 is not"),
    "no dimensions": (b"\0\0\x08\0\0", "00 00 08 00 is not"),
    "wrong type": (b"\0\0\x0a\x03" + GOOD[4:], "0a.*valid: 08 .uint8."),
    "sizes that lie": (encoded(images(3), (4, 4, 4)), "4 x 4 x 4 uint8, 64 bytes, but only 48"),
    "sizes beyond memory": (encoded(images(3), (2**32 - 1,) * 3), "but only 48"),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "gzip"),
    "gzip without its end": (gzip.compress(GOOD)[:-4], "gzip"),
    "corrupt gzip": (gzip.compress(GOOD)[:12] + b"\xff\xff\xff" + gzip.compress(GOOD)[15:], "gzip"),
    "gzip of half a file": (gzip.compress(GOOD[:30]), "only 14"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_what_is_wrong(tmp_path, case):
    content, says = BROKEN[case]
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        idx.read(path)
    assert "broken-idx" in str(caught.value)


def test_missing_file_and_folder_for_a_file(tmp_path):
    with pytest.raises(DataError, match=r"nothing-here.*No such file"):
        idx.read(tmp_path / "nothing-here")
    with pytest.raises(DataError, match="cannot be read"):
        idx.read(tmp_path)


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_folder(tmp_path, pack, suffix):
    data = idx.read_folder(folder(tmp_path, pack=pack, suffix=suffix))
    np.testing.assert_array_equal(data.train_images, images(12))
    np.testing.assert_array_equal(data.test_labels, labels(5))


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        (idx.NAMES[1], labels(11), "12 images, but .*train-labels-idx1-ubyte: 11 labels"),
        (idx.NAMES[2], images(5, side=3), "3x3 pixels, but .*4x4"),
        (idx.NAMES[0], images(12).astype("f4"), "float32"),
        (idx.NAMES[0], labels(12), r"shape \(12,\)"),
        (idx.NAMES[3], images(5), "labels: uint8 of 1 dimension"),
        (idx.NAMES[2], np.empty((0, 4, 4), np.uint8), "none of them 0"),
        (idx.NAMES[3], None, "t10k-labels-idx1-ubyte: missing.*3 other files"),
    ],
)
def test_folders_that_do_not_fit_together(tmp_path, name, array, says):
    with pytest.raises(DataError, match=says):
        idx.read_folder(folder(tmp_path, {name: array}))


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        idx.read_folder(tmp_path / "nowhere")

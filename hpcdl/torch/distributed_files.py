"""The files of torch's distributed checkpoint: written and read by torch; its metadata, a pickle, by a reader that knows few names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as forms

from ..errors import CommunicationError, DataError

__all__ = ["Reader", "write"]

_METADATA = ".metadata"


def write(folder: Path, tensors: dict[str, torch.Tensor], group: Any) -> list[str]:
    """Write `tensors`, each rank its own, as torch does; this rank's files. Raises OSError on all ranks if one fails."""
    try:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder), process_group=group)
    except dcp.CheckpointException as error:  # which is no Exception
        raise OSError(_told(error)) from None
    rank = dist.get_rank(group)
    return [path.name for path in folder.glob(f"__{rank}_*")] + [_METADATA] * (rank == 0)


class Reader(dcp.FileSystemReader):
    """Reads what `write` has written. Nothing in it can name code to be run: the metadata is read by `_Unpickler`, tensors as data."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        """What is where. Raises DataError for metadata of another kind."""
        with (Path(self.path) / _METADATA).open("rb") as file:
            found = _Unpickler(file).load()
        strange = [name for name, form in found.state_dict_metadata.items() if not isinstance(form, forms.TensorStorageMetadata)]
        if strange:
            raise DataError(f"{strange[0]!r} is no tensor: loading it could run code")
        return found

    def forms(self) -> dict[str, torch.Tensor]:
        """An empty tensor on the device ``meta`` for each that there is."""
        there = self.read_metadata().state_dict_metadata
        return {name: torch.empty(form.size, dtype=form.properties.dtype, device="meta") for name, form in there.items()}

    def load(self, tensors: dict[str, torch.Tensor], group: Any) -> None:
        """Overwrite `tensors`, on all ranks at once. Raises DataError on all if one of them fails."""
        try:
            dcp.load(tensors, storage_reader=self, process_group=group)
        except dcp.CheckpointException as error:
            raise DataError(_told(error)) from None


class _Unpickler(pickle.Unpickler):
    """Knows the forms that torch's metadata consist of, and nothing that does anything."""

    def find_class(self, module: str, name: str) -> Any:
        plain = "." not in name  # else it may name what is in another module, which that one imports
        found = super().find_class(module, name) if plain and module in _HARMLESS else None
        harmless = _HARMLESS.get(module, ())
        if name in harmless or isinstance(found, (torch.dtype, torch.memory_format, torch.layout)):
            return found
        if module == forms.__name__ and isinstance(found, type) and found.__module__ == module:
            return found
        raise DataError(f"its metadata name {module}.{name}, which torch does not write there")


_HARMLESS = {
    forms.__name__: (),
    "torch": ("Size",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath",),
    "pathlib._local": ("PosixPath",),
}


def _told(error: Any) -> str:
    """The first rank's failure, in a line."""
    rank, (cause, _) = min(error.failures.items())
    if isinstance(cause, CommunicationError):
        raise cause
    return f"rank {rank}: {type(cause).__name__}: {' '.join(str(cause).split())}"

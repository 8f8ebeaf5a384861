"""What a checkpoint consists of: things that give their state and take it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import arrays
from ..errors import CommunicationError, DataError, InvalidArgument
from .tree import kind_of

__all__ = ["FileWriter", "Part", "overwrite"]

#: Writes files into a folder, on all ranks; the names of those that this rank has written.
FileWriter = Callable[[Path], list[str]]

_SHOWN = 5  # differences that an error lists


class Part:
    """A thing to be saved, under a name. See `Checkpoint` for what it may be.

    `shared`, `own` and `files`: whether it has a state that is the same on all ranks, one of each rank, and one in files that it writes.
    """

    def __init__(self, name: str, thing: Any) -> None:
        self.name, self._thing = name, thing
        self._values = isinstance(thing, MutableMapping)
        self.shared = self._values or hasattr(thing, "state_dict")
        self.own = hasattr(thing, "rank_state_dict")
        self.files = hasattr(thing, "file_writer")
        pairs = (("state_dict", "load_state_dict"), ("rank_state_dict", "load_rank_state_dict"), ("file_writer", "load_files"))
        if not (self.shared or self.own or self.files) or (
            not self._values and any(hasattr(thing, a) != hasattr(thing, b) for a, b in pairs)
        ):
            raise InvalidArgument(
                f"a checkpoint cannot hold {name!r}, a {type(thing).__name__}: it needs state_dict() and load_state_dict(state), "
                "or rank_state_dict() and load_rank_state_dict(state) for what differs between ranks; or give a dict of arrays and values"
            )

    def state(self) -> Any:
        """What is the same on all ranks."""
        return dict(self._thing) if self._values else self._thing.state_dict()

    def load(self, state: Any) -> None:
        """Take it back. Raises DataError where it is that of another thing."""
        if self._values:
            overwrite(self._thing, state, self.name)
        else:
            self._told(self._thing.load_state_dict, state)

    def own_state(self) -> Any:
        """What is this rank's own."""
        return self._thing.rank_state_dict()

    def load_own(self, state: Any) -> None:
        """Take it back, on as many ranks."""
        self._told(self._thing.load_rank_state_dict, state)

    def load_all(self, states: list[Any]) -> bool:
        """Take what all ranks of a world of another size had, in rank order; whether it can."""
        if not hasattr(self._thing, "load_all_rank_state_dicts"):
            return False
        self._told(self._thing.load_all_rank_state_dicts, states)
        return True

    def file_writer(self) -> FileWriter:
        """What writes its files as of now."""
        writer: FileWriter = self._thing.file_writer()
        return writer

    def load_files(self, folder: Path) -> None:
        """Take back what the files in `folder` hold, on all ranks at once."""
        self._told(self._thing.load_files, folder)

    def _told(self, take: Any, state: Any) -> None:
        try:
            take(state)
        except CommunicationError:
            raise
        except Exception as error:
            raise DataError(f"{self.name!r} does not take what was saved: {type(error).__name__}: {error}") from error


def overwrite(here: Any, there: Any, name: str) -> None:
    """Overwrite arrays and values in `here`, a dict called `name`. All is compared before anything is changed; then a DataError tells."""
    differences = list(_differences(here, there, name))
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise DataError(f"it is of another model: {'; '.join(differences[:_SHOWN])}{more}")
    _overwrite(here, there)


def _differences(here: Any, there: Any, path: str) -> Any:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for key in here:
            if key in there:
                yield from _differences(here[key], there[key], f"{path}/{key}")
            else:
                yield f"{path}/{key} was not saved"
        yield from (f"{path}/{key} was saved, and is not here" for key in there if key not in here)
    elif isinstance(here, Mapping) or (isinstance(there, Mapping) and here is not None):
        yield f"{path} is {type(here).__name__} here, and {type(there).__name__} was saved"
    elif isinstance(here, list) and isinstance(there, list) and _arrays_within(here):
        if len(here) != len(there):
            yield f"{path} has {len(here)} entries here, and {len(there)} were saved"
        for i, (mine, saved) in enumerate(zip(here, there, strict=False)):
            yield from _differences(mine, saved, f"{path}/{i}")
    elif _filled(here):
        if arrays.is_array(here) != isinstance(there, np.ndarray) or not hasattr(there, "shape"):
            yield f"{path} is {type(here).__name__} here, and {type(there).__name__} was saved"
        elif tuple(here.shape) != tuple(there.shape) or here.dtype != there.dtype:
            yield f"{path} is {here.dtype} of shape {list(here.shape)} here, and {there.dtype} of shape {list(there.shape)} was saved"
        elif isinstance(here, np.ndarray) and not here.flags.writeable:
            yield f"{path} is read-only here"
    elif isinstance(there, np.ndarray) and here is not None and not isinstance(here, tuple):
        yield f"{path} is {type(here).__name__} here, and an array was saved"


def _filled(x: Any) -> bool:
    """Whether it is overwritten in place."""
    return arrays.is_array(x) or kind_of(x) is not None


def _arrays_within(x: Any) -> bool:
    if isinstance(x, (Mapping, list)):
        return any(map(_arrays_within, x.values() if isinstance(x, Mapping) else x))
    return _filled(x)


def _overwrite(here: Any, there: Any) -> None:
    """Arrays in place; other values, tuples among them, by assignment."""
    for key in here if isinstance(here, Mapping) else range(len(here)):
        mine, saved = here[key], there[key]
        if arrays.is_array(mine):
            arrays.of(mine).from_host(np.asarray(saved, order="C"), mine)
        elif kind := kind_of(mine):
            kind.fill(mine, saved)
        elif isinstance(mine, Mapping) or (isinstance(mine, list) and _arrays_within(mine)):
            _overwrite(mine, saved)
        else:
            here[key] = saved

"""Files that are there as a whole or not at all, and optional packages that read them."""

import contextlib
import importlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["replacing", "package", "hdf5", "places", "located"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """The path of a temporary file beside `path`, of the same ending: at the end of the block it is synced and renamed to `path`; where the block raises, nothing changes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def package(name: str, who: str, extra: str = "imaging") -> ModuleType:
    """The module `name`; ImportError naming the extra that installs it where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{who} needs {name}; install it with: pip install 'paralift[{extra}]'") from None


@contextlib.contextmanager
def hdf5(path: str | os.PathLike, who: str) -> Iterator[Any]:
    """The HDF5 file `path`, open for reading; ValueError where it is none or is damaged."""
    h5py = package("h5py", who)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file, or is damaged or cut short ({error}).") from None


def places(name: str) -> list[Path]:
    """The folders in which the data set `name` may lie: of PARALIFT_DATA, then of the user's cache."""
    root = os.environ.get("PARALIFT_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "paralift" / name
    return ([Path(root) / name, Path(root)] if root else []) + [cache]


def located(name: str, file: str, instead: str) -> Path:
    """The path of a file or folder of the data set `name`; FileNotFoundError that says where it was looked for and what serves `instead`."""
    found = next((place / file for place in places(name) if (place / file).exists()), None)
    if found is None:
        raise FileNotFoundError(f"{file} was looked for in {', '.join(map(str, places(name)))}; set PARALIFT_DATA to the folder that holds {name}/, or use {instead}.")
    return found

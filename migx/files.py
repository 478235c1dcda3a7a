"""Files written whole or not at all, and read only from where they may be."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np

from migx.errors import DataError, MigxError


@contextmanager
def written(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` and renames it there when the block ends well; else
    removes it. ``DataError`` where it cannot be written.
    """
    path = Path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                yield out
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """``DataError`` names the file where the block cannot write it."""
    try:
        yield
    except MigxError:
        raise
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays to an ``.npz`` file by name, whole or not at all. ``DataError`` where one is no
    array of numbers.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype == object:
            raise DataError(f"{name!r} is no array of numbers, which is what .npz files hold")
    with written(path) as out:
        np.savez(out, allow_pickle=False, **arrays)


def inside(folder: Path, location: str, what: str) -> Path:
    """The path of a file that another file names, which must lie in that one's folder, links
    followed. ``DataError`` says ``what`` would be read.
    """
    where = "the model's folder"
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute():
        raise DataError(
            f"{what}: the path {location!r} is absolute; only files in {where} are read"
        )
    if "\0" in location:
        raise DataError(f"{what}: the path {location!r} is no path")
    file = folder / location
    if not file.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{what}: the path {location!r} leads out of {where}")
    return file


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

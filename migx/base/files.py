"""Files written atomically, and read only from allowed places."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np

from migx.errors import DataError, MigxError


@contextmanager
def written(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` and renames it to that if the block succeeds;
    otherwise removes it. For a link, the file it names is written; what is not a file, such as a
    device or a pipe, is written to directly. ``DataError`` if it cannot be written.
    """
    path = Path(path)
    if "\0" in str(path):
        raise DataError(f"cannot write {str(path)!r}: no path holds a null character")
    with writing(path):
        if _is_stream(path):
            with tempfile.TemporaryFile() as held:
                yield held
                held.seek(0)
                with open(path, "wb") as stream:
                    shutil.copyfileobj(held, stream)
            return
        path = Path(os.path.realpath(path))
        name = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        try:
            with open(name, "xb") as out:
                yield out
            os.replace(name, path)
        except BaseException:
            name.unlink(missing_ok=True)
            raise


def _is_stream(path: Path) -> bool:
    """Whether a path is something other than a file, which cannot be replaced."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return not stat.S_ISREG(mode)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """``DataError`` with the file's name if the block fails to write it."""
    try:
        yield
    except MigxError:
        raise
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays to an ``.npz`` file by name, atomically; the members of a tuple ``x`` as
    ``x[0]``, ``x[1]`` and so on. ``DataError`` if one is not an array of numbers.
    """
    members = dict(apart(arrays.items()))
    for name, array in members.items():
        if not isinstance(array, np.ndarray | np.generic) or array.dtype == object:
            raise DataError(f"{name!r} is no array of numbers, which is what .npz files hold")
    with written(path) as out:
        np.savez(out, allow_pickle=False, **members)


def apart(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Named values, with tuples replaced by their members."""
    for name, value in named:
        if isinstance(value, tuple):
            yield from apart((member(name, i), part) for i, part in enumerate(value))
        else:
            yield name, value


def member(name: str, index: int) -> str:
    """The name of a member of a tuple."""
    return f"{name}[{index}]"


def inside(folder: Path, location: str, what: str) -> Path:
    """The path of a file that another file names; it must be in that one's folder, links followed.
    ``DataError`` says ``what`` would be read.
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

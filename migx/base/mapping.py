"""Files mapped into memory: shared by all readers, checked, and released."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from typing import NamedTuple, Self

from migx.errors import DataError

GIVE_BACK = getattr(mmap, "MADV_DONTNEED", None)
"""The advice that pages are not needed; None where it does not exist."""


class Stamp(NamedTuple):
    """What tells, barring malice, that a file has been written to."""

    size: int
    modified: int
    inode: int

    @classmethod
    def of(cls, file: str | Path | int) -> Self:
        """The stamp of a path or of an open file; ``OSError`` if it does not exist."""
        found = os.stat(file)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class MappedFile(mmap.mmap):
    """The bytes of a file that is not empty, read-only. They stay the same if another file is
    renamed over this one; ``check`` detects writes into it.
    """

    path: Path
    stamp: Stamp
    _file: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Maps the current file of a path; ``OSError`` if it cannot be read."""
        file = os.open(path, os.O_RDONLY)
        try:
            made = cls(file, 0, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(file)
            raise
        made.path, made.stamp, made._file = path, Stamp.of(file), file
        weakref.finalize(made, os.close, file).atexit = False
        return made

    def check(self) -> None:
        """Raises ``DataError`` if the file has changed since it was mapped; takes under 1 us."""
        if Stamp.of(self._file) != self.stamp:
            raise DataError(
                f"{self.path} was written to while it was in use: read the model again, and "
                "replace such files by renaming others over them"
            )

    def give_back(self, offset: int, length: int) -> None:
        """Releases the whole pages within some bytes; they are read from the file again."""
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if size > 0 and GIVE_BACK is not None:
            self.madvise(GIVE_BACK, start, size)


_mapped: weakref.WeakValueDictionary[tuple[Path, Stamp], MappedFile] = weakref.WeakValueDictionary()


def mapped(path: Path) -> MappedFile | None:
    """A mapped file; None if it is empty. All readers of the same unchanged file share one mapping.
    ``OSError`` if it cannot be read.
    """
    found = _mapped.get((path, stamp := Stamp.of(path)))
    if found is None and stamp.size:
        found = MappedFile.of(path)
        _mapped[path, found.stamp] = found
    return found

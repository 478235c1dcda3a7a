"""Files mapped into memory: shared by all who read them, checked, and given back."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from typing import NamedTuple, Self

from migx.errors import DataError

GIVE_BACK = getattr(mmap, "MADV_DONTNEED", None)
"""What tells the system that pages are not needed; None where there is no such call."""


class Stamp(NamedTuple):
    """What differs, but for ill will, between a file and what it was before it was written to."""

    size: int
    modified: int
    inode: int

    @classmethod
    def of(cls, file: str | Path | int) -> Self:
        """The stamp of a path or of an open file; ``OSError`` where there is no such file."""
        found = os.stat(file)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class MappedFile(mmap.mmap):
    """The bytes of a file that is not empty, read-only. They stay what they are when another file
    is renamed over this one; that somebody has written into it, ``check`` finds.
    """

    path: Path
    stamp: Stamp
    _file: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file of a path as it is now; ``OSError`` where it cannot be read."""
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
        """Raises ``DataError`` where the file is not what it was when it was mapped; under 1 us."""
        if Stamp.of(self._file) != self.stamp:
            raise DataError(
                f"{self.path} was written to while it was in use: read the model again, and "
                "replace such files by renaming others over them"
            )

    def give_back(self, offset: int, length: int) -> None:
        """Takes the whole pages in some bytes out of memory; who reads them again gets them from
        the file.
        """
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if size > 0 and GIVE_BACK is not None:
            self.madvise(GIVE_BACK, start, size)


_mapped: weakref.WeakValueDictionary[tuple[Path, Stamp], MappedFile] = weakref.WeakValueDictionary()


def mapped(path: Path) -> MappedFile | None:
    """A file, mapped; None for one that is empty. All who ask for the same unchanged file share one
    mapping. ``OSError`` where it cannot be read.
    """
    found = _mapped.get((path, stamp := Stamp.of(path)))
    if found is None and stamp.size:
        found = MappedFile.of(path)
        _mapped[path, found.stamp] = found
    return found

"""The cache on disk, shared by processes: files named by the hash of what determines them.

It is in ``MIGX_CACHE_DIR``, or in ``migx`` in the user's cache folder; ``MIGX_CACHE_DIR=`` (empty)
disables it. Files are renamed into place, and begin with the hash of their content: several
processes may share the folder, and truncated or damaged files are made again. If the folder cannot
be written, nothing is cached.

Each kind of file may take ``MIGX_CACHE_MB`` megabytes (1024); beyond that, the least recently read
are removed. Each kind has 256 folders by hash, so that each is trimmed by itself and quickly
listed.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from migx.base.files import written
from migx.errors import TargetError

_DIGEST = hashlib.sha256().digest_size
_FOLDERS = 256


def folder(kind: str) -> Path | None:
    """The folder for one kind of file; None if the cache is disabled."""
    given = os.environ.get("MIGX_CACHE_DIR")
    if given is not None:
        return Path(given).expanduser() / kind if given else None
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(base or Path.home() / ".cache") / "migx" / kind


def read(kind: str, decided_by: str) -> bytes | None:
    """The cached content for a key; None if there is none, or it is damaged."""
    path = _place(kind, decided_by)
    try:
        found = b"" if path is None else path.read_bytes()
    except OSError:
        return None
    content = found[_DIGEST:]
    if path is None or not content or hashlib.sha256(content).digest() != found[:_DIGEST]:
        return None
    with suppress(OSError):  # a file may be readable, but not ours to touch
        os.utime(path)
    return content


def write(kind: str, decided_by: str, content: bytes) -> None:
    """Stores what ``read`` returns to later processes, unless the folder is full or read-only."""
    path, share = _place(kind, decided_by), limit() // _FOLDERS
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as file:
            file.write(hashlib.sha256(content).digest() + content)
        if path.name.endswith("0"):  # once in sixteen writes, so that trimming costs little
            _trim(path.parent, share)
    except OSError:
        return


def _place(kind: str, decided_by: str) -> Path | None:
    at = folder(kind)
    name = hashlib.sha256(decided_by.encode()).hexdigest()[:40]
    return None if at is None else at / name[:2] / name[2:]


def _trim(place: Path, share: int) -> None:
    """Trims one of the folders to its share of bytes, the least recently read files first."""
    with os.scandir(place) as entries:
        found = sorted(((s := e.stat()).st_mtime_ns, s.st_size, e.path) for e in entries)
    over = sum(size for _, size, _ in found) - share
    for _, size, path in found:
        if over <= 0:
            break
        os.unlink(path)
        over -= size


def limit() -> int:
    """The bytes one kind of file may take. ``TargetError`` if the variable is not a number."""
    given = os.environ.get("MIGX_CACHE_MB", "1024")
    if not given.isdecimal():
        raise TargetError(f"MIGX_CACHE_MB is {given!r}; it must be a number, of megabytes")
    return int(given) << 20

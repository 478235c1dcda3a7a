"""What is made once and read by later processes: files under the hash of what decides them.

They lie in ``MIGX_CACHE_DIR``, or in ``migx`` in the user's cache folder; ``MIGX_CACHE_DIR=``
(empty) keeps nothing. Files are written aside and renamed, and begin with the hash of what follows:
several processes may share the folder, and what is cut short or damaged is made again. Where the
folder cannot be written, nothing is kept.

Each kind of thing may take ``MIGX_CACHE_MB`` megabytes (1024); beyond that, what was not read for
longest goes. It lies in 256 folders by hash, so that each is trimmed by itself and soon read.
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
    """Where things of a kind are kept; None where nothing is."""
    given = os.environ.get("MIGX_CACHE_DIR")
    if given is not None:
        return Path(given).expanduser() / kind if given else None
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(base or Path.home() / ".cache") / "migx" / kind


def read(kind: str, decided_by: str) -> bytes | None:
    """What is kept for something; None where nothing is, or it is damaged."""
    path = _place(kind, decided_by)
    try:
        found = b"" if path is None else path.read_bytes()
    except OSError:
        return None
    content = found[_DIGEST:]
    if path is None or not content or hashlib.sha256(content).digest() != found[:_DIGEST]:
        return None
    with suppress(OSError):  # one may read what one may not touch
        os.utime(path)
    return content


def write(kind: str, decided_by: str, content: bytes) -> None:
    """Keeps what ``read`` gives to later processes; where the folder is full or cannot be written,
    they make it again.
    """
    path, share = _place(kind, decided_by), limit() // _FOLDERS
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as file:
            file.write(hashlib.sha256(content).digest() + content)
        if path.name.endswith("0"):  # one in sixteen: trimming costs little beside making
            _trim(path.parent, share)
    except OSError:
        return


def _place(kind: str, decided_by: str) -> Path | None:
    at = folder(kind)
    name = hashlib.sha256(decided_by.encode()).hexdigest()[:40]
    return None if at is None else at / name[:2] / name[2:]


def _trim(place: Path, share: int) -> None:
    """Brings one of the folders within its share of bytes, the longest unread going first."""
    with os.scandir(place) as entries:
        found = sorted(((s := e.stat()).st_mtime_ns, s.st_size, e.path) for e in entries)
    over = sum(size for _, size, _ in found) - share
    for _, size, path in found:
        if over <= 0:
            break
        os.unlink(path)
        over -= size


def limit() -> int:
    """The bytes that things of one kind may take. ``TargetError`` where the environment says no
    number.
    """
    given = os.environ.get("MIGX_CACHE_MB", "1024")
    if not given.isdecimal():
        raise TargetError(f"MIGX_CACHE_MB is {given!r}; it must be a number, of megabytes")
    return int(given) << 20

"""What is made once and read by later processes: files under the hash of what decides them.

They lie in ``MIGX_CACHE_DIR``, or in ``migx`` in the user's cache folder; ``MIGX_CACHE_DIR=``
(empty) keeps nothing. Files are written aside and renamed, and begin with the hash of what follows:
several processes may share the folder, and what is cut short or damaged is made again. Where the
folder cannot be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from migx.files import written

_DIGEST = hashlib.sha256().digest_size


def folder(kind: str) -> Path | None:
    """Where things of a kind are kept; None where nothing is."""
    given = os.environ.get("MIGX_CACHE_DIR")
    if given is not None:
        return Path(given) / kind if given else None
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
    return content if content and hashlib.sha256(content).digest() == found[:_DIGEST] else None


def write(kind: str, decided_by: str, content: bytes) -> None:
    """Keeps what ``read`` gives to later processes; where the folder is full or cannot be written,
    they make it again.
    """
    path = _place(kind, decided_by)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as file:
            file.write(hashlib.sha256(content).digest() + content)
    except OSError:
        return


def _place(kind: str, decided_by: str) -> Path | None:
    at = folder(kind)
    return None if at is None else at / hashlib.sha256(decided_by.encode()).hexdigest()[:40]

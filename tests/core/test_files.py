"""Files that are written whole or not at all, and what is no file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from migx.base.files import write_arrays, written
from migx.errors import DataError


def write(path: Path, content: bytes = b"new") -> None:
    with written(path) as out:
        assert out.tell() == 0
        out.write(content)


def test_a_file_is_replaced_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="no"), written(path) as out:
        out.write(b"new")
        raise ValueError("no")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["a"])
    write(path)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"new", ["a"])
    with pytest.raises(DataError, match="cannot write .*: Is a directory"):
        write(tmp_path)


def test_a_file_may_be_read_by_whom_the_process_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)  # it is the whole process's
        write(tmp_path / "a")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    link, file = tmp_path / "link", tmp_path / "in" / "file"
    link.symlink_to("in/file")
    for content in (b"first", b"second"):
        write(link, content)
        assert link.is_symlink()
        assert file.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(10)
    assert (found, pipe.is_fifo()) == ([b"new"], True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
def test_a_device_is_written_to() -> None:
    write(Path(os.devnull))
    with pytest.raises(DataError, match="cannot write /dev/full: No space left on device"):
        write(Path("/dev/full"))


def test_a_path_that_is_none(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="no path holds a null character"),
        written(f"{tmp_path}/a\0b"),
    ):
        pass


def test_numbers_are_arrays(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"x": np.float32(2)})
    with np.load(tmp_path / "a.npz") as held:
        assert held["x"] == 2
    with pytest.raises(DataError, match="'x' is no array of numbers"):
        write_arrays(tmp_path / "a.npz", {"x": [2]})

"""``.mxr`` files: a program with its literals in one file that is mapped when it is loaded.

The layout is eight bytes ``MIGX MXR``, the length of a JSON index (8 bytes, little-endian), the
index, and sections aligned to 64 bytes: ``text``, the program's text form, and ``data``, the bytes
of its large literals, to which the text refers. So what a file says can be read with any pager, and
what the text form can express, a file can hold.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

from migx.argument import Argument, Source
from migx.errors import DataError, ParseError
from migx.files import written
from migx.ir import Program
from migx.parser import parse
from migx.text import show

MAGIC = b"MIGX MXR"
FORMAT = 1
ALIGNMENT = 64
DATA = "@data"
"""The name under which the text refers to the file's own data section."""


def save(program: Program, path: str | Path) -> None:
    """Writes a program and all its literals to one file; atomic, so a file that was there stays
    whole till the end.
    """
    packed = _Data()
    text = show(program, origins=True, place=packed.place).encode()
    index = {"format": FORMAT, "text": [0, len(text)], "data": [_aligned(len(text)), packed.length]}
    head = json.dumps(index).encode()
    start = _aligned(16 + len(head))
    with written(path) as out:
        out.write(MAGIC + struct.pack("<Q", len(head)) + head)
        _pad(out, start)
        out.write(text)
        _pad(out, start + _aligned(len(text)))
        packed.write(out)


def load(path: str | Path) -> Program:
    """The program in an ``.mxr`` file; its literals are mapped. ``ParseError`` when the file is
    something else.
    """
    path = Path(path).absolute()
    try:
        with open(path, "rb") as file:
            index, start = _index(file, path)
            file.seek(start + index["text"][0])
            text = file.read(index["text"][1]).decode()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    offset, length = index["data"]
    if path.stat().st_size < start + offset + length:
        raise DataError(
            f"{path} is truncated: its data should end at byte {start + offset + length}"
        )

    def find(name: str, at: int, size: int) -> Source:
        return (
            Source(path, start + offset + at, size)
            if name == DATA
            else Source(Path(name), at, size)
        )

    return parse(text, find=find)


def _index(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    """The index and where the sections begin."""
    head = file.read(16)
    if len(head) < 16 or head[:8] != MAGIC:
        raise ParseError(f"{path} is not an .mxr file: it does not begin with {MAGIC.decode()!r}")
    (length,) = struct.unpack("<Q", head[8:])
    try:
        index: dict[str, Any] = json.loads(file.read(length))
    except ValueError as error:
        raise ParseError(f"{path} has an index that is damaged: {error}") from error
    if index.get("format") != FORMAT:
        raise ParseError(
            f"{path} is of format {index.get('format')}, this migx reads format {FORMAT}"
        )
    return index, _aligned(16 + length)


class _Data:
    """The data section while the text is being written: what goes where, each distinct literal
    once.
    """

    def __init__(self) -> None:
        self.length = 0
        self._places: dict[str, tuple[int, Argument]] = {}

    def place(self, value: Argument) -> tuple[str, int, int]:
        """Where a literal's bytes will be: the name of the section, offset and length."""
        key = value.digest()
        if key not in self._places:
            self.length = _aligned(self.length)
            self._places[key] = self.length, value
            self.length += value.nbytes
        return DATA, self._places[key][0], value.nbytes

    def write(self, out: BinaryIO) -> None:
        start = out.tell()
        for offset, value in self._places.values():
            _pad(out, start + offset)
            out.write(
                value.array.reshape(-1).data if value.array.flags.c_contiguous else value.tobytes()
            )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(out: BinaryIO, to: int) -> None:
    out.write(bytes(to - out.tell()))

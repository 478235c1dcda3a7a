"""The resources that a binary says its kernel takes.

A thread that needs more registers than it may have spills to memory. A few bytes cost nothing;
thousands make a kernel many times slower.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

FRAME_SIZE = 0x11
"""The attribute of a cubin, in ``.nv.info``, that holds the stack size of a function in bytes."""
SIZED = 4
"""The format of attributes that are followed by a length and so many bytes; the others have two
bytes.
"""
PRIVATE = b".private_segment_fixed_size"
"""The key of a thread's memory in the notes of an hsaco, which are MessagePack."""
WIDE = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I"}
"""The formats of MessagePack integers that do not fit in their type byte."""


def spilled(code: bytes, kind: str) -> int:
    """The bytes per thread of a kernel's spilled registers."""
    return max(_of_cubin(code) if kind == "cubin" else _of_hsaco(code), default=0)


def _of_cubin(code: bytes) -> Iterator[int]:
    for at in attributes(code, b".nv.info", FRAME_SIZE):
        yield struct.unpack_from("<II", code, at)[1]


def attributes(code: bytes, section: bytes, kind: int) -> Iterator[int]:
    """The offset of the contents of each attribute of a kind, in a section of a cubin."""
    for start, size in _sections(code, section):
        at, end = start, start + size
        while at + 4 <= end:
            form, attribute, length = struct.unpack_from("<BBH", code, at)
            if attribute == kind and form == SIZED:
                yield at + 4
            at += 4 + (length if form == SIZED else 0)


def _sections(code: bytes, name: bytes) -> Iterator[tuple[int, int]]:
    """The offsets and lengths of the sections of an ELF file with a name."""
    (headers,) = struct.unpack_from("<Q", code, 0x28)
    size, count, names = struct.unpack_from("<HHH", code, 0x3A)
    every = [struct.unpack_from("<IIQQQQ", code, headers + i * size) for i in range(count)]
    table = every[names][4]
    for header in every:
        begin = table + header[0]
        if code[begin : code.index(b"\0", begin)] == name:
            yield header[4], header[5]


def _of_hsaco(code: bytes) -> Iterator[int]:
    at = code.find(PRIVATE)
    while at >= 0:
        at += len(PRIVATE)
        wide = WIDE.get(code[at])
        yield code[at] if wide is None else struct.unpack_from(wide, code, at + 1)[0]
        at = code.find(PRIVATE, at)

"""Reads an ONNX file without its weights.

Protobuf cannot parse a message and leave its large fields on disk, and an ONNX file may contain
gigabytes. So the wire format is walked here, three levels deep (model, graph, initializer), and the
raw data of initializers is cut out; the rest is parsed by the onnx package, and the pieces cut out
are known by their place in the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from migx.argument import Source
from migx.errors import OnnxError
from migx.serialize import MAGIC

CUT = 1024
"""Raw data of at least this many bytes stays in the file."""
STARTS = {
    b"version https://git-lfs": (
        "it is a pointer to a file in Git LFS; 'git lfs pull' fetches the file itself"
    ),
    MAGIC: "it is an .mxr file, which migx.load reads",
    b"PK\3\4": "it is a zip archive",
    b"\x1f\x8b": "it is compressed: 'gunzip' gives the file itself",
}
"""What a file that is not a model is, by how it starts."""

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Stripped:
    """A model without the raw data of its large initializers, and where that is, by the
    initializer's index.
    """

    model: onnx.ModelProto
    embedded: dict[int, Source]


def read_stripped(path: Path) -> Stripped:
    """The model in a file. ``OnnxError`` if the file is missing, truncated or not an ONNX model."""
    try:
        with open(path, "rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise OnnxError(f"{path} is empty") from error
    except OSError as error:
        raise OnnxError(f"cannot read {path}: {error.strerror}") from error
    with whole, memoryview(whole) as view:
        stripper = _Stripper(view, path)
        model = _parsed(view, lambda: b"".join(stripper.model()), path)
        return Stripped(model, stripper.embedded)


def stripped_of(model: onnx.ModelProto | bytes) -> Stripped:
    """A model in memory, or its bytes. ``OnnxError`` if it is none."""
    name = "what was given"
    if isinstance(model, onnx.ModelProto):
        return Stripped(_whole(model, name), {})
    return Stripped(_parsed(memoryview(model), lambda: model, name), {})


def _parsed(view: memoryview, kept: Callable[[], bytes], name: object) -> onnx.ModelProto:
    """The model in the kept part of some bytes."""
    try:
        model = onnx.ModelProto.FromString(kept())
        _check_strings(model)
    except (DecodeError, IndexError) as error:
        cut = isinstance(error, IndexError)
        why = _looks_like(bytes(view[:64])) or ("it is truncated" if cut else str(error))
        raise OnnxError(f"{name} is not an ONNX model: {why}") from error
    return _whole(model, name)


def _whole(model: onnx.ModelProto, name: object) -> onnx.ModelProto:
    """The model, checked to have what every model has."""
    if not model.HasField("graph") or not model.ir_version:
        raise OnnxError(f"{name} is not an ONNX model: it has no graph or no IR version")
    return model


def _looks_like(head: bytes) -> str:
    """What a file that is not a model seems to be, by its first bytes; empty if unknown."""
    for start, what in STARTS.items():
        if head.startswith(start):
            return what
    if head[4:8] == b"ORTM":
        return "it is in onnxruntime's own format: give the .onnx file that it was made from"
    if not all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return ""
    if b"ir_version" in head:
        return "it is a model as text: onnx.load reads that, and onnx.save writes it as bytes"
    return "it is text"


def _check_strings(message: Message) -> None:
    """Raises ``DecodeError`` if a name is not UTF-8, which protobuf would return as bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            strings = [value] if isinstance(value, str | bytes) else value
            if any(isinstance(s, bytes) for s in strings):
                raise DecodeError(f"{field.full_name} is not UTF-8")
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                _check_strings(inner)


@dataclass(frozen=True)
class _Field:
    """One field of a message: ``start`` to ``end`` with its key; ``body`` is where the payload of a
    bytes field begins.
    """

    number: int
    wire: int
    start: int
    body: int
    end: int


def _fields(view: memoryview, at: int, end: int) -> Iterator[_Field]:
    """The fields of a message; ``IndexError`` if one exceeds its end."""
    while at < end:
        start = at
        key, body = _varint(view, at)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            length, body = _varint(view, body)
            at = body + length
        elif wire == _VARINT:
            _, at = _varint(view, body)
        elif wire in (_FIXED64, _FIXED32):
            at = body + (8 if wire == _FIXED64 else 4)
        else:
            raise DecodeError(f"no wire type {wire}, at byte {start}")
        if at > end:
            raise IndexError
        yield _Field(number, wire, start, body, at)


class _Stripper:
    """Walks a model in a file, and records in ``embedded`` which raw data it cuts out."""

    def __init__(self, view: memoryview, path: Path) -> None:
        self.embedded: dict[int, Source] = {}
        self._view, self._path, self._initializers = view, path, 0

    def model(self) -> Iterator[bytes]:
        """The kept parts, in order."""
        for field in _fields(self._view, 0, len(self._view)):
            if field.number == _MODEL_GRAPH and field.wire == _BYTES:
                yield from _message(_MODEL_GRAPH, list(self._graph(field)))
            else:
                yield self._bytes(field.start, field.end)

    def _graph(self, graph: _Field) -> Iterator[bytes]:
        kept = graph.body
        for field in _fields(self._view, graph.body, graph.end):
            if field.number != _GRAPH_INITIALIZER or field.wire != _BYTES:
                continue
            raw = self._raw_data(field)
            if raw is not None and raw.end - raw.body >= CUT:
                source = Source(self._path, raw.body, raw.end - raw.body)
                self.embedded[self._initializers] = source
                yield self._bytes(kept, field.start)
                pieces = [self._bytes(field.body, raw.start), self._bytes(raw.end, field.end)]
                yield from _message(_GRAPH_INITIALIZER, pieces)
                kept = field.end
            self._initializers += 1
        yield self._bytes(kept, graph.end)

    def _raw_data(self, tensor: _Field) -> _Field | None:
        fields = _fields(self._view, tensor.body, tensor.end)
        found = (f for f in fields if f.number == _TENSOR_RAW_DATA and f.wire == _BYTES)
        return next(found, None)

    def _bytes(self, start: int, end: int) -> bytes:
        return bytes(self._view[start:end])


def _message(number: int, pieces: list[bytes]) -> Iterator[bytes]:
    yield _varint_bytes(number << 3 | _BYTES) + _varint_bytes(sum(map(len, pieces)))
    yield from pieces


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise DecodeError(f"a number of more than 64 bits, at byte {at}")


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)

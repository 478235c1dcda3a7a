"""``.mxr`` files: a program, its literals and its compiled form in one file that is mapped when
loaded.

The layout is eight bytes ``MIGX MXR``, the length of a JSON index (8 bytes, little-endian), the
index, and sections aligned to 64 bytes: ``text``, the program's text form; for a compiled program
``lowered``, the text of the lowered program, and ``code/...``, the target's compiled code (without
the original, ``text`` is the lowered program); and the data, the bytes of large literals and of
slots, to which texts and index refer. So the file can be read with any pager, and can hold whatever
the text form can express.

Code in a file is run with the program: trust such a file as you would trust a program. ``load(...,
compiled=False)`` does not look at it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from migx import plugins
from migx.argument import Argument, Source
from migx.base.collector import paused
from migx.base.files import inside, written
from migx.base.memory import aligned
from migx.compiler import Compiled, assembled, ready
from migx.errors import DataError, DataWarning, MigxError, ParseError, TargetError, first_few, warn
from migx.ops.builtin import Literal
from migx.parser import parse
from migx.pipeline import with_options
from migx.program import Program
from migx.target import CompileOptions, Saves, Target, context_for, get_target
from migx.text import show
from migx.weights.fitting import own
from migx.weights.hoisting import fixed_slots
from migx.weights.live import holding, leave_out, live_weights
from migx.weights.recipe import Arguments

MAGIC = b"MIGX MXR"
FORMAT = 3
LARGEST_INDEX = 1 << 26
DATA = "@data"
"""The name under which a text refers to the file's own data section."""


def save(
    program: Program, path: str | Path, *, weights: bool = True, original: bool = True
) -> None:
    """Writes a program, its literals and its compiled form, atomically: an existing file stays
    intact until the end.

    Weights are written with their current values. Without ``weights``, replaceable ones are
    deferred again and literals in files are referred to, with their hashes: these files must be in
    the folder of the new file, or below it; only what lies in a file that is replaced is kept.
    Without the ``original``, the program in the file is the lowered one: many weights are then
    written once, not twice. ``DataError`` if the program is not compiled. A ``DataWarning`` says if
    the name of its target, which the file records with its options, or of an operation would not be
    found on loading, or is another's.
    """
    path = Path(path).absolute()
    if path.suffix == ".onnx":
        raise DataError(f"{path.name} cannot be saved as ONNX: use migx.onnx.write, or save .mxr")
    data = _Data(path, inside=weights)
    sections: dict[str, bytes] = {}
    index: dict[str, Any] = {"format": FORMAT}
    made = program.compiled if program._compiled is not None else None
    live = live_weights(program)
    if original:
        _tell_unknown(program)
        sections["text"] = data.text(_holding(program, live, weights))
    elif made is None:
        raise DataError("compile the program before it is saved without its original")
    if made is not None:
        lowered = "lowered" if original else "text"
        _tell_unknown(made.program)
        sections[lowered] = data.text(_holding(made.program, live, weights))
        index["options"] = made.context.options.plain()
        index["slots"] = {name: data.place(v)[1:] for name, v in _slots(made, weights).items()}
        sections |= {f"code/{name}": code for name, code in _code(made).items()}
        index["target"] = _target_text(made.context.target)
    index["sections"], start = _laid_out(sections)
    index |= {"data": (start, data.length), "literals": data.literals}
    head = json.dumps(index).encode()
    with written(path) as out:
        out.write(MAGIC + struct.pack("<Q", len(head)) + head)
        first = aligned(16 + len(head))
        for name, (offset, _, _) in index["sections"].items():
            _pad(out, first + offset)
            out.write(sections[name])
        _pad(out, first + start)
        data.write(out)


@paused()
def load(
    path: str | Path,
    *,
    compiled: bool = True,
    mmap: bool = True,
    check: bool = False,
    num_threads: int | None = None,
) -> Program:
    """The program in an ``.mxr`` file, ready to run if it was compiled; its literals are mapped.

    ``compiled=False`` reads the program and its weights only, and no code: for files that are not
    trusted. ``mmap=False`` reads the literals into memory. ``check`` compares the data with its
    hash, which reads all of it; everything else is always checked. ``num_threads`` is how many
    threads a run may use, instead of the number given at compilation. ``ParseError`` if the file is
    something else or damaged, ``DataError`` if it is truncated. The original program's text is read
    when first needed, which no run does: errors in it, or in the files it refers to, are raised
    then.
    """
    file = _File(Path(path).absolute())
    if check:
        file.check_data()
    if not compiled or not file.target:
        return file.program("text", mmap)
    program = SavedProgram(file) if mmap else file.program("text", mmap)
    context = context_for(_target_of(file))
    context.options = file.options
    if num_threads is not None:
        context.options = dataclasses.replace(file.options, num_threads=num_threads)
    saved = file.code()
    context.saved = saved if context.target.accepts(saved) else {}
    lowered = "lowered" if "lowered" in file.sections else "text"
    made = assembled(program, file.program(lowered, mmap), context)
    made.weights.start(file.slots(made))
    program._compiled = ready(made)
    return program


def _tell_unknown(program: Program) -> None:
    """Warns of operations that a text of the program would not mean: those in no package."""
    wrong = []
    for name, kind in {at.name: type(at.op) for at in program.instructions()}.items():
        try:
            found = plugins.operation(name) is kind
        except MigxError:
            found = False
        if not found:
            wrong.append(name)
    if wrong:
        warn(
            f"the program is saved, but cannot be loaded: {first_few(wrong)} would not be found; "
            "operations are found in packages that an entry point of migx.ops names",
            DataWarning,
        )


def _target_text(target: Target) -> str:
    """The name of a target with its options, as ``get_target`` takes them; warns if it is not
    found, or is another's.
    """
    cls, name = type(target), target.name
    text = with_options(name, target)
    try:
        found = plugins.load("targets", name)
        wrong = f"stands for {found.__module__}.{found.__name__}" if found is not cls else ""
    except MigxError as error:
        wrong = f"is not found: {error}"
    said = f"a program compiled for {cls.__module__}.{cls.__name__} is saved with the target name"
    if wrong:
        warn(
            f"{said} {name!r}, which {wrong}; targets are found in packages that an entry point of "
            "migx.targets names",
            DataWarning,
        )
    elif not _means(text, target):
        warn(f"{said} {name!r} alone: its options cannot be read back from {text}", DataWarning)
    else:
        return text
    return name


def _means(text: str, target: Target) -> bool:
    """Whether a text names a target with these options."""
    try:
        return with_options(target.name, get_target(text)) == text
    except MigxError:
        return False


def _target_of(file: _File) -> Target:
    """The target that a file is compiled for; ``TargetError`` if it is not available."""
    try:
        return get_target(file.target)
    except MigxError as error:
        whole = "lowered" in file.sections
        raise TargetError(
            f"{file.path} is compiled for target {file.target!r}, which is not here: {error}"
            + ("; migx.load(path, compiled=False) reads the program alone" if whole else "")
        ) from error


def _holding(program: Program, live: Arguments, weights: bool) -> Program:
    """The program with its current weights, or without the replaceable ones."""
    if weights:
        return holding(program, live) if live else program
    made = program.copy()
    leave_out(made)
    return made


def _slots(made: Compiled, weights: bool) -> dict[str, Argument]:
    """The slots that contain weights and that the host can read; none for a file without weights.
    Other slots are computed when the file is loaded.
    """
    back, fixed = made.context.target.copy_from, fixed_slots(made.program)
    slots = made.weights.current.slots if weights else {}
    return {name: back(value) for name, value in slots.items() if name not in fixed}


def _code(made: Compiled) -> Mapping[str, bytes]:
    """The compiled code that the target wants saved, by name."""
    executable, name = made.executable, made.context.target.name
    code: Any = executable.save_code() if isinstance(executable, Saves) else {}
    if not isinstance(code, Mapping):
        raise TargetError(f"target {name}: save_code must return a dict, not {type(code).__name__}")
    if wrong := [key for key, value in code.items() if not isinstance(value, bytes)]:
        given = type(code[wrong[0]]).__name__
        raise TargetError(
            f"target {name}: save_code must return bytes, not {given} as {wrong[0]!r}"
        )
    return dict(code)


def _laid_out(sections: Mapping[str, bytes]) -> tuple[dict[str, tuple[int, int, str]], int]:
    """Offset, length and hash of each section, and the offset of the data."""
    found, offset = {}, 0
    for name, content in sections.items():
        found[name] = offset, len(content), hashlib.sha256(content).hexdigest()
        offset = aligned(offset + len(content))
    return found, offset


class _File:
    """An ``.mxr`` file with its index read and checked against the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                index, self.start = self._index(file)
                self.sections = self._sections(file, index["sections"])
        except (DataError, ParseError):
            raise
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, AttributeError, TargetError) as error:
            raise ParseError(f"{path} has an index that is damaged: {error}") from error

    def _index(self, file: BinaryIO) -> tuple[dict[str, Any], int]:
        """The index, and the offset of the first section."""
        head = file.read(16)
        if len(head) < 16 or head[:8] != MAGIC:
            raise ParseError(
                f"{self.path} is not an .mxr file: it does not begin with {MAGIC.decode()!r}; "
                "ONNX files are read by migx.parse_onnx, texts of programs by migx.parse"
            )
        (length,) = struct.unpack("<Q", head[8:])
        if length > LARGEST_INDEX:
            raise ParseError(f"{self.path} has an index that is damaged: {length} bytes long")
        index: dict[str, Any] = json.loads(file.read(length))
        if index.get("format") != FORMAT:
            raise ParseError(
                f"{self.path} is of format {index.get('format')}, this migx reads format {FORMAT}: "
                "save it again from the model, or use the migx that wrote it"
            )
        start, (offset, size) = aligned(16 + length), _pair(index["data"])
        if self.size < start + offset + size:
            raise DataError(
                f"{self.path} is truncated: its data should end at byte {start + offset + size}"
            )
        self.data = start + offset, size
        self.target = str(index.get("target", ""))
        self.options = CompileOptions(**index.get("options", {}))
        self.places = {name: _pair(place) for name, place in index.get("slots", {}).items()}
        self.literals = [(*_pair(e[:2]), str(e[2])) for e in index.get("literals", [])]
        return index, start

    def _sections(self, file: BinaryIO, listed: Mapping[str, Any]) -> dict[str, bytes]:
        found = {}
        for name, (offset, length, digest) in listed.items():
            _pair((offset, length))
            if self.start + offset + length > self.size:
                raise DataError(f"{self.path} is truncated: its section {name!r} is cut short")
            file.seek(self.start + offset)
            found[name] = file.read(length)
            if hashlib.sha256(found[name]).hexdigest() != digest:
                raise ParseError(f"{self.path} is damaged: section {name!r} has another hash")
        if "text" not in found:
            raise ParseError(f"{self.path} holds no program")
        return found

    def program(self, section: str, mmap: bool) -> Program:
        """The program whose text is in a section."""
        made = parse(self.sections[section].decode(), find=self.find)
        if not mmap:
            for at in list(made.literals):
                literal = at.op_as(Literal)
                value = own(literal.value, mapped=False)
                at.owner.replace_operation(at, dataclasses.replace(literal, value=value))
        return made

    def find(self, name: str, offset: int, length: int) -> Source:
        """The bytes a text refers to: in this file's data, or in a file in its folder."""
        if name != DATA:
            return Source(inside(self.path.parent, name, str(self.path)), offset, length)
        if offset + length > self.data[1]:
            raise DataError(f"{self.path} is damaged: a literal lies beyond its data")
        return Source(self.path, self.data[0] + offset, length)

    def code(self) -> dict[str, bytes]:
        """The code that the target saved."""
        marked = {n: c for n, c in self.sections.items() if n.startswith("code/")}
        return {name.removeprefix("code/"): content for name, content in marked.items()}

    def slots(self, made: Compiled) -> dict[str, Argument]:
        """The slots that were saved, mapped."""
        shapes = made.weights.slots
        return {
            name: Argument(shapes[name], source=self.find(DATA, offset, length))
            for name, (offset, length) in self.places.items()
            if name in shapes
        }

    def check_data(self) -> None:
        """Raises ``DataError`` if the data does not have its hash."""
        for offset, length, digest in self.literals:
            if self.find(DATA, offset, length).digest() != digest:
                raise DataError(f"{self.path} is damaged at bytes {self.data[0] + offset} and on")


class SavedProgram(Program):
    """The original program of a compiled one, whose text is read at first use."""

    _in_text = "modules", "literals", "main"

    def __init__(self, file: _File) -> None:
        super().__init__()
        self._file, self._reading = file, threading.Lock()
        for name in self._in_text:
            delattr(self, name)

    def __getattr__(self, name: str) -> Any:
        """Reads the text at the first access to an attribute."""
        if name not in self._in_text:
            return super().__getattribute__(name)  # again, for the error of a property
        with self._reading:
            if name not in vars(self):
                made = self._file.program("text", mmap=True)
                for module in made.modules.values():
                    module.program = self
                vars(self).update({each: getattr(made, each) for each in self._in_text})
        return vars(self)[name]


def _pair(given: Any) -> tuple[int, int]:
    """An offset and a length, neither negative."""
    first, second = given
    if type(first) is not int or type(second) is not int or first < 0 or second < 0:
        raise ValueError(f"{given!r} is no offset and length")
    return first, second


class _Data:
    """The data section while texts are written: places each distinct literal once. Without
    ``inside``, literals in files stay there, but for the file that is replaced.
    """

    def __init__(self, path: Path, *, inside: bool) -> None:
        self.folder, self.replaced = path.parent.resolve(), path.resolve()
        self.inside, self.length = inside, 0
        self._places: dict[str, tuple[int, Argument]] = {}

    def text(self, program: Program) -> bytes:
        """A program's text, with its large literals placed here."""
        return show(program, origins=True, hashes=not self.inside, place=self.place).encode()

    def place(self, value: Argument) -> tuple[str, int, int]:
        """The place of a literal's bytes: file, offset and length."""
        source = None if self.inside else value.source
        if source is not None and (file := source.file.resolve()) != self.replaced:
            if not file.is_relative_to(self.folder):
                raise DataError(
                    f"a file without weights must be saved in the folder of {source.file.name}, "
                    f"{source.file.parent}, to which it refers, or in one around it"
                )
            return str(file.relative_to(self.folder)), source.offset, source.length
        key = value.digest()
        if key not in self._places:
            self.length = aligned(self.length)
            self._places[key] = self.length, value
            self.length += value.nbytes
        return DATA, self._places[key][0], value.nbytes

    @property
    def literals(self) -> list[tuple[int, int, str]]:
        """Offset, length and hash of all literals in the data."""
        return [(at, value.nbytes, digest) for digest, (at, value) in self._places.items()]

    def write(self, out: BinaryIO) -> None:
        """Writes the data section."""
        start = out.tell()
        for offset, value in self._places.values():
            _pad(out, start + offset)
            whole = value.array.flags.c_contiguous
            out.write(value.array.reshape(-1).view("u1").data if whole else value.tobytes())


def _pad(out: BinaryIO, to: int) -> None:
    out.write(bytes(to - out.tell()))

"""The text form of programs: ``show`` prints it, ``write`` saves it, ``migx.parser`` reads it back,
``draw`` points at an instruction.

    module main(x: f32[batch, 3, 4]) {
      %0 = transpose(x) {permutation=(2, 0, 1)} : f32[4, batch, 3]
      return %0
    }

Shapes are printed without strides if these follow from the operation. Names that are not plain
identifiers are in double quotes, such symbols in backticks. Modules are in the order of the
program; in a submodule, a value of an enclosing module is prefixed by that module's name,
``main:%0``. Dims with bounds are declared first: ``dim batch = 1..64 {8, 32}``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from migx import op as operations
from migx.argument import Argument, unpacked_codes
from migx.base.files import writing, written
from migx.dims.symbol import Symbol, is_identifier
from migx.errors import UnknownName, there_are
from migx.ir import Instruction, Module
from migx.op import Operation
from migx.ops.builtin import Literal, Param, Return
from migx.program import Program
from migx.shape import F32, F64, DType
from migx.weights import unsealed

INLINE = 16
"""Literals of at most this many elements are printed in full; larger ones by the location of their
bytes, or by hash.
"""

Names: TypeAlias = dict[Instruction, str]
Place: TypeAlias = Callable[[Argument], tuple[str, int, int]]
"""The location of a literal's bytes: file, offset and length."""


def show(
    program: Program,
    *,
    origins: bool = False,
    hashes: bool = False,
    data_file: Path | None = None,
    place: Place | None = None,
) -> str:
    """The text of a program.

    ``origins`` adds the ONNX nodes each instruction came from, ``hashes`` the SHA-256 of literals
    in files. With ``data_file``, the bytes of large literals that are not in a file are written
    there, and the text refers to it; ``place`` decides for each large literal itself.
    """
    if data_file is not None:
        place = SideFile(data_file).place
    writer = _Writer(origins=origins, hashes=hashes, place=place)
    names = {module: number(module) for module in program.modules.values()}
    blocks = [_declared(program.symbols().values())]
    blocks += [writer.module(module, names) for module in program.modules.values()]
    return "\n".join(block for block in blocks if block)


def write(
    program: Program, path: Path, *, head: str = "", origins: bool = False, hashes: bool = False
) -> None:
    """Writes the text of a program to a file after ``head``, atomically.

    Large literals that are not in a file go to a file beside it, named by the program's
    fingerprint, so that two programs never share one.
    """
    data = None
    if any(_is_loose(at.op_as(Literal).value) for at in program.literals):
        data = path.with_name(f"{path.stem}-{program.fingerprint()[:12]}.bin")
    text = show(program, origins=origins, hashes=hashes, data_file=data)
    with written(path) as out:
        out.write(f"{head}{text}".encode())


def show_module(module: Module) -> str:
    """The text of one module; captures are named as in the text of the program."""
    shown = {module, *module.program.modules.values()}
    return _Writer().module(module, {each: number(each) for each in shown})


def show_instruction(
    instruction: Instruction, *, origins: bool = True, names: dict[Module, Names] | None = None
) -> str:
    """An instruction's line in the text of its module, with the names used there. ``names`` caches
    them between calls, and is valid as long as the modules are unchanged.
    """
    at = instruction
    if at.module is None:
        return repr(at)
    names = _numbered({at.module, *(v.module for v in at.inputs)}, names)
    if type(at.op) is Param:
        return f"{names[at.module][at]} : {at.shape}"
    read = [_reference(v, at.module, names) for v in at.inputs]
    return _Writer(origins=origins).instruction(at, names[at.module], read).strip()


@contextmanager
def noted(what: str, at: Instruction) -> Iterator[None]:
    """Adds a note to any error raised in the block: what was asked, and the instruction drawn."""
    try:
        yield
    except Exception as error:
        error.add_note(draw_instruction(f"raised by {what}", at))
        raise


def number(module: Module) -> Names:
    """The name of each instruction in the text of its module."""
    names: Names = {}
    count = 0
    for instruction in module:
        if type(instruction.op) is Param:
            names[instruction] = quoted(instruction.op.parameter)
        elif type(instruction.op) is not Return:
            names[instruction] = f"%{count}"
            count += 1
    return names


def named(program: Program, name: str) -> list[Instruction]:
    """The instructions a name refers to; see ``Program.named``."""
    found: list[Instruction] = []
    of_operation: list[Instruction] = []
    known: dict[str, None] = {}
    for module in program.modules.values():
        for at, text in number(module).items():
            full = text if module is program.main else f"{module.name}:{text}"
            own = dict.fromkeys((full, getattr(at.op, "label", "") or full, *at.origins))
            known |= own
            if name in own:
                found.append(at)
            if name == at.op.name:
                of_operation.append(at)
    if not (found or of_operation):
        raise UnknownName(
            f"no instruction is named {name!r}, comes from it or is one; {there_are(name, known)}"
        )
    return found or of_operation


def _numbered(
    modules: Iterable[Module | None], names: dict[Module, Names] | None = None
) -> dict[Module, Names]:
    """The names in some modules, added to those already known."""
    names = {} if names is None else names
    for module in modules:
        if module is not None and module not in names:
            names[module] = number(module)
    return names


def quoted(name: str) -> str:
    """A name as written in the text: bare if it is an identifier, otherwise in double quotes."""
    return name if is_identifier(name) else json.dumps(name, ensure_ascii=False)


def attributes(op: Operation, place: Place | None = None) -> str:
    """The attributes of an operation that differ from their defaults, as text."""
    return _attributes(op, _Writer(place=place)).strip()


def draw(
    message: str,
    module: Module,
    op: Operation,
    inputs: Iterable[Instruction],
    origins: Iterable[str] = (),
) -> str:
    """A message with the instruction it is about, a caret under it, the shapes of its inputs and
    its ONNX origins.
    """
    names = _numbered({module, *(i.module for i in inputs)})
    written = [_reference(i, module, names) for i in inputs]
    line = f"{op.name}({', '.join(written)}){_attributes(op, _Writer())}"
    rows = [message, f"  {line}", f"  {'^' * len(op.name)}"]
    rows += [f"  {name} : {i.shape}" for name, i in dict(zip(written, inputs, strict=True)).items()]
    place = f"in module {module.name}"
    if origins:
        place += ", from ONNX " + ", ".join(map(repr, origins))
    return "\n".join([*rows, f"  {place}"])


def draw_instruction(message: str, instruction: Instruction) -> str:
    """``draw`` for an instruction in a module."""
    at = instruction
    if at.module is None:
        return f"{message}\n  {at!r}, which is in no module"
    return draw(message, at.module, at.op, at.inputs, at.origins)


class _Writer:
    """Prints modules. ``place`` gives the location of literals that are not inline."""

    def __init__(
        self, *, origins: bool = False, hashes: bool = False, place: Place | None = None
    ) -> None:
        self.origins, self.hashes, self.place = origins, hashes, place

    def module(self, module: Module, names: dict[Module, Names]) -> str:
        own = names[module]
        parameters = ", ".join(f"{own[p]}: {p.shape}" for p in module.parameters.values())
        bypass = " bypass" if module.bypass else ""
        lines = [f"module {quoted(module.name)}({parameters}){bypass} {{"]
        for at in module:
            if type(at.op) is not Param:
                read = [own.get(v) or _reference(v, module, names) for v in at.inputs]
                lines.append(self.instruction(at, own, read))
        return "\n".join([*lines, "}\n"])

    def instruction(self, at: Instruction, own: Names, read: list[str]) -> str:
        op = at.op
        if type(op) is Return:
            named = [f"{quoted(n)}={v}" for n, v in zip(op.names, read, strict=False)]
            return f"  return {', '.join(named or read)}".rstrip()
        # The strides of a literal are its own; those of other results follow from the operation.
        shape = at.shape if isinstance(op, Literal) else at.shape.text
        line = f"  {own[at]} = {op.name}({', '.join(read)}){_attributes(op, self)}"
        if at.modules:
            line += f" [{', '.join(quoted(m.name) for m in at.modules)}]"
        line += f" : {shape}"
        if self.origins and at.origins:
            line += f" from {', '.join(map(json.dumps, at.origins))}"
        return line

    def value(self, value: Any) -> str:
        match value:
            case Argument():
                return self.literal(value)
            case bool():
                return str(value).lower()
            case str():
                return json.dumps(value, ensure_ascii=False)
            case float():
                return _element(value, F64)
            case tuple() | list():
                comma = "," if len(value) == 1 else ""
                return f"({', '.join(map(self.value, value))}{comma})"
            case _:
                return str(value)

    @unsealed()
    def literal(self, value: Argument) -> str:
        """A literal's value: ``[1.0, 2.0]``, ``bytes("file", offset, length)``,
        ``sha256("...")``.
        """
        if _is_inline(value):
            dtype = value.shape.dtype
            return f"[{', '.join(_element(x, dtype) for x in value.elements.reshape(-1))}]"
        if self.place is not None:
            file, offset, length = self.place(value)
        elif value.source is not None:
            file, offset, length = str(value.source.file), value.source.offset, value.source.length
        else:
            return f'sha256("{value.digest()}")'
        digest = f', sha256="{value.digest()}"' if self.hashes else ""
        return f"bytes({json.dumps(file)}, {offset}, {length}{digest})"


@unsealed()
def _is_inline(value: Argument) -> bool:
    """Whether a literal is printed by elements; a packed one is if its padding bits are 0."""
    dtype, count = value.shape.dtype, int(value.shape.elements)
    if dtype.kind == "string":
        return True
    if count > INLINE or not value.available:
        return False
    return not (dtype.is_packed and unpacked_codes(value.array, dtype.bits)[count:].any())


def _is_loose(value: Argument) -> bool:
    """Whether a literal's bytes exist, but neither in the text nor in a file."""
    return value.available and value.source is None and not _is_inline(value)


def _attributes(op: Operation, writer: _Writer) -> str:
    """The attributes that differ from their defaults, as text."""
    given = operations.attributes(op)
    if given and dataclasses.is_dataclass(op):
        usual = _defaults(type(op))
        given = {
            k: v for k, v in given.items() if k not in usual or operations.exact(v) != usual[k]
        }
    if not given:
        return ""
    return f" {{{', '.join([f'{k}={writer.value(v)}' for k, v in given.items()])}}}"


@cache
def _defaults(cls: Any) -> dict[str, Any]:
    fields = dataclasses.fields(cls)
    return {
        f.name: operations.exact(f.default) for f in fields if f.default is not dataclasses.MISSING
    }


def _reference(value: Instruction, module: Module, names: dict[Module, Names]) -> str:
    if value.module is None:
        return "<removed>"
    name = names.get(value.module, {}).get(value, "<return>")
    return name if value.module is module else f"{quoted(value.module.name)}:{name}"


def _declared(symbols: Iterable[Symbol]) -> str:
    """The declarations of the symbols that have bounds or optimal sizes."""
    lines = []
    for symbol in sorted(symbols, key=lambda s: s.name):
        if symbol != Symbol(symbol.name):
            optimals = f" {{{', '.join(map(str, symbol.optimals))}}}" if symbol.optimals else ""
            high = "" if symbol.high is None else symbol.high
            lines.append(f"dim {symbol} = {symbol.low}..{high}{optimals}\n")
    return "".join(lines)


def _element(x: Any, dtype: DType) -> str:
    if dtype.kind == "string":
        return json.dumps(x, ensure_ascii=False)
    if dtype.kind == "bool":
        return "true" if x else "false"
    if not dtype.is_float:
        return str(int(x))
    if math.isnan(x):
        bits = np.asarray(x).tobytes()
        return (
            "nan" if bits == np.asarray(math.nan, dtype.numpy).tobytes() else f'nan("{bits.hex()}")'
        )
    return str(x) if dtype is F32 else repr(float(x))


class SideFile:
    """A file beside the text for the bytes of literals that are not in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.write_bytes(b"")

    def place(self, value: Argument) -> tuple[str, int, int]:
        """The location of a literal's bytes: where they are, or appended to this file."""
        if (source := value.source) is not None:
            return str(source.file), source.offset, source.length
        with writing(self.path), open(self.path, "ab") as out:
            out.write(bytes(-out.tell() % 64))
            offset = out.tell()
            out.write(value.tobytes())
        return self.path.name, offset, value.nbytes

"""Reads the text form of programs: ``parse(str(program)) == program``."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from migx import dim, plugins
from migx.argument import Argument, Source
from migx.dim import Dim
from migx.errors import DataError, DimError, IRError, ParseError, ShapeError, UnknownName
from migx.ir import Instruction, Module, Program
from migx.shape import DType, Shape

_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r\n]+|\#[^\n]*)"""
    r"""|(?P<result>%\d+)"""
    r"""|(?P<float>[-+]?(\d+\.\d*([eE][-+]?\d+)?|\d+[eE][-+]?\d+)(?!\.))"""
    r"""|(?P<int>\d+)"""
    r"""|(?P<name>@?[A-Za-z_][\w]*(\.\w+|::\w+)*)"""
    r"""|(?P<string>"([^"\\\n]|\\.)*")"""
    r"""|(?P<symbol>`[^`\n]*`)"""
    r"""|(?P<mark>\.\.|//|[-+*%(){}\[\]=:,])"""
    r"""|(?P<wrong>.)""",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class _Bytes:
    """A literal's value as it stands in the text; its meaning needs the shape."""

    values: tuple[Any, ...] | None
    source: Source | None = None
    digest: str | None = None


@dataclass
class _Statement:
    at: _Token
    result: str
    op: str
    inputs: list[tuple[str, str, _Token]]
    attributes: dict[str, Any] = field(default_factory=dict)
    modules: list[_Token] = field(default_factory=list)
    shape: Shape | None = None
    origins: tuple[str, ...] = ()


@dataclass
class _Block:
    name: str
    at: _Token
    parameters: list[tuple[str, Shape, _Token]]
    statements: list[_Statement]
    bypass: bool


def parse(text: str, *, folder: str | Path = ".", draw_missing: int | None = None) -> Program:
    """The program a text stands for. ``ParseError`` gives line, column and what was expected.

    Files that literals lie in are looked for in ``folder`` and mapped when they are first read.
    ``draw_missing`` is a seed: literals whose bytes are not there are then drawn from it, each by
    its own place, so that a text without its weights still runs.
    """
    return _Builder(_Reader(text, Path(folder)), draw_missing).program()


class _Reader:
    """Turns text into blocks of statements. Recursive descent, one token ahead."""

    def __init__(self, text: str, folder: Path) -> None:
        self.text, self.folder = text, folder
        self.symbols: dict[str, Dim] = {}
        self.tokens = [
            _Token(m.lastgroup or "", m.group(), m.start())
            for m in _TOKEN.finditer(text)
            if m.lastgroup != "skip"
        ]
        self.tokens.append(_Token("end", "", len(text.rstrip())))
        self.place = 0

    def fail(self, message: str, at: _Token) -> NoReturn:
        before = self.text[: at.at]
        line, column = before.count("\n") + 1, at.at - before.rfind("\n")
        shown = self.text.splitlines()[line - 1] if self.text else ""
        raise ParseError(
            f"line {line}, column {column}: {message}\n  {shown}\n"
            f"  {' ' * (column - 1)}{'^' * max(1, len(at.text))}"
        )

    @property
    def next(self) -> _Token:
        return self.tokens[self.place]

    def follows(self, *marks: str) -> bool:
        """Whether one of some marks comes after the next token."""
        return self.tokens[self.place + 1].text in marks

    def take(self, kind_or_mark: str, expected: str = "") -> _Token:
        token = self.next
        if kind_or_mark not in (token.kind, token.text):
            found = repr(token.text) if token.text else "the end of the text"
            self.fail(f"expected {expected or repr(kind_or_mark)}, found {found}", token)
        self.place += 1
        return token

    def accept(self, mark: str) -> bool:
        if self.next.text != mark or self.next.kind == "string":
            return False
        self.place += 1
        return True

    def blocks(self) -> list[_Block]:
        while self.next.text == "dim":
            self.declaration()
        found = []
        while self.next.kind != "end":
            found.append(self.block())
        return found

    def declaration(self) -> None:
        """Reads ``dim batch = 1..64 {8, 32}``."""
        self.take("dim")
        at = self.next
        name = self.symbol_name()
        self.take("=")
        low = int(self.take("int", "the lower bound").text)
        self.take("..")
        high = int(self.take("int").text) if self.next.kind == "int" else None
        optimals = []
        if self.accept("{"):
            while not self.accept("}"):
                optimals.append(int(self.take("int", "an optimal size").text))
                self.accept(",")
        try:
            self.symbols[name] = Dim(name, low, high, optimals)
        except DimError as error:
            self.fail(str(error), at)

    def symbol_name(self) -> str:
        token = self.next
        if token.kind == "symbol":
            self.place += 1
            return token.text.strip("`")
        return self.take("name", "the name of a dim").text

    def block(self) -> _Block:
        self.take("module", "'module'")
        at = self.next
        name = self.name("the module's name")
        self.take("(")
        parameters = []
        while not self.accept(")"):
            where = self.next
            parameter = self.name("a parameter's name")
            self.take(":")
            parameters.append((parameter, self.shape(), where))
            if self.next.text != ")":
                self.take(",", "',' or ')'")
        bypass = self.accept("bypass")
        self.take("{")
        statements = []
        while not self.accept("}"):
            statements.append(self.statement())
        return _Block(name, at, parameters, statements, bypass)

    def name(self, expected: str) -> str:
        token = self.next
        if token.kind == "string":
            self.place += 1
            return str(json.loads(token.text))
        return self.take("name", expected).text

    def statement(self) -> _Statement:
        at = self.next
        if self.accept("return"):
            return self.returned(at)
        result = self.take("result", "an instruction such as %0 = add(x, y), or 'return'").text
        self.take("=")
        where = self.next
        made = _Statement(where, result, self.take("name", "the name of an operation").text, [])
        self.take("(")
        made.inputs = self.references(")")
        self.take(")")
        if self.accept("{"):
            made.attributes = self.attributes()
        if self.accept("["):
            while not self.accept("]"):
                made.modules.append(
                    _Token("name", (t := self.next, self.name("a module's name"))[1], t.at)
                )
                self.accept(",")
        if self.accept(":"):
            made.shape = self.shape()
        if self.accept("from"):
            origins = [str(json.loads(self.take("string", "the name of an ONNX node").text))]
            while self.accept(","):
                origins.append(str(json.loads(self.take("string").text)))
            made.origins = tuple(origins)
        return made

    def returned(self, at: _Token) -> _Statement:
        """``return %1, x`` or, with names, ``return logits=%1, "probs:0"=x``."""
        made = _Statement(at, "", "@return", [])
        names: list[str] = []
        while self.next.text != "}":
            if self.next.kind != "result" and self.follows("="):
                names.append(self.name("the name of a result"))
                self.take("=")
            made.inputs.append(self.reference())
            if not self.accept(","):
                break
        if names:
            made.attributes["names"] = tuple(names)
        return made

    def references(self, end: str) -> list[tuple[str, str, _Token]]:
        """Values read: ``%0``, ``x``, ``"a name"``, or with their module, ``main:%0``."""
        found: list[tuple[str, str, _Token]] = []
        while self.next.text != end or self.next.kind == "string":
            found.append(self.reference())
            if not self.accept(","):
                break
        return found

    def reference(self) -> tuple[str, str, _Token]:
        at, module = self.next, ""
        value = self.value_name()
        if self.accept(":"):
            module, at = value, self.next
            value = self.value_name()
        return module, value, at

    def value_name(self) -> str:
        if self.next.kind == "result":
            return self.take("result").text
        return self.name("a value such as %0 or x")

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.accept("}"):
            at = self.take("name", "the name of an attribute")
            if at.text in found:
                self.fail(f"attribute {at.text!r} is given twice", at)
            self.take("=")
            found[at.text] = self.value()
            if self.next.text != "}":
                self.take(",", "',' or '}'")
        return found

    def value(self) -> Any:
        token = self.next
        match token.kind, token.text:
            case "string", text:
                self.place += 1
                return json.loads(text)
            case "float", text:
                self.place += 1
                return float(text)
            case "name", "true" | "false":
                self.place += 1
                return token.text == "true"
            case "name", "nan" | "inf":
                self.place += 1
                return self.bits(float(token.text))
            case "name", "bytes" | "sha256":
                return self.data()
            case _, "[":
                return self.elements()
            case _, "-" if self.follows("inf"):
                self.place += 2
                return -float("inf")
            case "name", text if text in DType.known and self.follows("[", "("):
                return self.shape()
            case "name", text if text in DType.known and DType.known[text].is_tensor:
                return self.dtype()
            case _:
                return self.extent()

    def bits(self, plain: float) -> Any:
        """``nan("0000c07f")`` is the NaN of those bytes."""
        if not self.accept("("):
            return plain
        text = json.loads(self.take("string", "the bytes in hexadecimal").text)
        self.take(")")
        return bytes.fromhex(text)

    def dtype(self) -> DType:
        token = self.take("name", "an element type")
        if token.text not in DType.known:
            self.fail(f"no element type {token.text!r}; there are {', '.join(DType.known)}", token)
        return DType.known[token.text]

    def elements(self) -> _Bytes:
        self.take("[")
        values = []
        while not self.accept("]"):
            values.append(self.value())
            if self.next.text != "]":
                self.take(",", "',' or ']'")
        return _Bytes(tuple(values))

    def data(self) -> _Bytes:
        """``bytes("file", offset, length, sha256="...")`` or ``sha256("...")``."""
        kind = self.take("name").text
        self.take("(")
        first = json.loads(self.take("string").text)
        if kind == "sha256":
            self.take(")")
            return _Bytes(None, digest=first)
        self.take(",")
        offset = int(self.take("int", "the offset in bytes").text)
        self.take(",")
        length = int(self.take("int", "the length in bytes").text)
        digest = None
        if self.accept(","):
            self.take("sha256")
            self.take("=")
            digest = json.loads(self.take("string").text)
        self.take(")")
        return _Bytes(None, Source(self.folder / first, offset, length), digest)

    def shape(self) -> Shape:
        at = self.next
        dtype = self.dtype()
        try:
            if not dtype.is_tensor:
                self.take("(")
                parts = []
                while not self.accept(")"):
                    parts.append(self.shape())
                    self.accept(",")
                return Shape(dtype, parts=tuple(parts))
            dims = self.extents("[", "]")
            return Shape(dtype, dims, self.extents("{", "}") if self.next.text == "{" else None)
        except ShapeError as error:
            self.fail(str(error), at)

    def extents(self, opening: str, closing: str) -> list[Any]:
        self.take(opening)
        found = []
        while not self.accept(closing):
            found.append(self.extent())
            if self.next.text != closing:
                self.take(",", f"',' or {closing!r}")
        return found

    def extent(self) -> Any:
        """A sum of products of numbers, symbols, calls and parentheses; a tuple where parentheses
        hold one.
        """
        total = -self.product() if self.accept("-") else self.product()
        while self.next.text in ("+", "-"):
            total = (
                total + self.product() if self.take("mark").text == "+" else total - self.product()
            )
        return total

    def product(self) -> Any:
        at = self.next
        total = self.atom()
        while self.next.text in ("*", "//"):
            mark = self.take("mark").text
            factor = self.atom()
            try:
                total = total * factor if mark == "*" else total // factor
            except DimError as error:
                self.fail(str(error), at)
        return total

    def atom(self) -> Any:
        token = self.next
        if self.accept("("):
            return self.parenthesised()
        if token.kind == "int":
            self.place += 1
            return int(token.text)
        if token.text in ("min", "max", "broadcast"):
            self.place += 1
            return dim.call(token.text, *self.extents("(", ")"))
        if token.kind not in ("name", "symbol"):
            found = repr(token.text) if token.text else "the end of the text"
            self.fail(f"expected a value, found {found}", token)
        name = self.symbol_name()
        return self.symbols.setdefault(name, Dim(name))

    def parenthesised(self) -> Any:
        """What stands in parentheses: one expression, or a tuple, ``(1,)`` being one of one."""
        values: list[Any] = []
        comma = False
        while not self.accept(")"):
            values.append(self.value())
            comma = self.accept(",")
            if not comma and self.next.text != ")":
                self.take(",", "',' or ')'")
        if len(values) == 1 and not comma:
            return values[0]
        return tuple(values)


class _Builder:
    """Makes the program of the blocks: a submodule when the instruction it belongs to is
    reached.
    """

    def __init__(self, reader: _Reader, draw_missing: int | None) -> None:
        self.reader, self.draw_missing = reader, draw_missing
        self.made = Program()
        self.values: dict[Module, dict[str, Instruction]] = {}

    def program(self) -> Program:
        self.blocks: dict[str, _Block] = {}
        for block in self.reader.blocks():
            if block.name in self.blocks:
                self.reader.fail(f"there are two modules named {block.name!r}", block.at)
            self.blocks[block.name] = block
        if "main" not in self.blocks:
            self.reader.fail("expected a module named main", self.reader.tokens[-1])
        self.made.modules = {}
        for name in self.blocks:
            made = self.made.create_module(name)
            if name == "main":
                self.made.main = made
        self.build("main")
        for name in self.blocks:
            self.build(name)
        return self.made

    def build(self, name: str) -> Module:
        module, block = self.made.modules[name], self.blocks[name]
        if module in self.values:
            return module
        values = self.values[module] = {}
        module.bypass = block.bypass
        for parameter, shape, at in block.parameters:
            if parameter in module.parameters:
                self.reader.fail(f"parameter {parameter!r} is declared twice", at)
            values[parameter] = module.add_parameter(parameter, shape)
        for statement in block.statements:
            self.statement(module, statement, values)
        return module

    def statement(
        self, module: Module, statement: _Statement, values: dict[str, Instruction]
    ) -> None:
        fail = self.reader.fail
        if statement.result in values:
            fail(f"{statement.result} is defined twice", statement.at)
        inputs = [self.input(module, *reference) for reference in statement.inputs]
        for token in statement.modules:
            if token.text not in self.blocks:
                fail(f"there is no module {token.text!r}", token)
        modules = [self.build(token.text) for token in statement.modules]
        try:
            op = self.operation(statement)
            made = module.insert_instruction(
                None, op, *inputs, modules=modules, origins=statement.origins
            )
        except (UnknownName, ShapeError, IRError, DataError) as error:
            fail(str(error), statement.at)
        if statement.shape is not None and not made.shape.same_type(statement.shape):
            fail(
                f"{statement.op} gives {made.shape}, the text says {statement.shape}", statement.at
            )
        if statement.result:
            values[statement.result] = made

    def input(self, module: Module, owner: str, name: str, at: _Token) -> Instruction:
        if owner and owner not in self.blocks:
            self.reader.fail(f"there is no module {owner!r}", at)
        values = self.values.get(self.made.modules[owner] if owner else module, {})
        if name not in values:
            self.reader.fail(f"{name} is read before it is defined", at)
        return values[name]

    def operation(self, statement: _Statement) -> Any:
        cls = plugins.operation(statement.op)
        given = dict(statement.attributes)
        if isinstance(given.get("value"), _Bytes):
            given["value"] = self.literal(given["value"], statement)
        if dataclasses.is_dataclass(cls):
            self.check_attributes(cls, given, statement)
        return cls(**given)

    def check_attributes(self, cls: Any, given: dict[str, Any], statement: _Statement) -> None:
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name, value in given.items():
            if name not in fields:
                known = ", ".join(fields) or "no attributes"
                self.reader.fail(
                    f"{statement.op} has no attribute {name!r}; it has {known}", statement.at
                )
            kind = str(fields[name].type)
            if kind == "float" and type(value) is int:
                given[name] = float(value)
            elif not _fits(kind, value):
                self.reader.fail(f"{statement.op}: {name} is {kind}, not {value!r}", statement.at)
        needed = [
            f.name
            for f in fields.values()
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if missing := [name for name in needed if name not in given]:
            self.reader.fail(
                f"{statement.op} needs the attributes {', '.join(missing)}", statement.at
            )

    def literal(self, value: _Bytes, statement: _Statement) -> Argument:
        shape = statement.shape
        if shape is None:
            self.reader.fail("a literal's shape must follow it: ' : f32[2, 3]'", statement.at)
        if value.values is None:
            found = Argument(shape, source=value.source, digest=value.digest)
            if self.draw_missing is not None and not found.available:
                return drawn(shape, [self.draw_missing, statement.at.at])
            return found
        if len(value.values) != shape.elements:
            self.reader.fail(
                f"{shape} has {shape.elements} elements, the text {len(value.values)}", statement.at
            )
        array = np.empty(len(value.values), shape.dtype.numpy)
        for i, x in enumerate(value.values):
            try:
                array[i] = np.frombuffer(x, shape.dtype.numpy)[0] if isinstance(x, bytes) else x
            except (OverflowError, ValueError, TypeError) as error:
                self.reader.fail(f"{x!r} is no element of {shape.dtype}: {error}", statement.at)
        return Argument(shape, array.reshape([int(d) for d in shape.dims]))


def drawn(shape: Shape, seed: Any) -> Argument:
    """A literal of a shape with values from a seed: floats normal and small, integers over a narrow
    range.
    """
    rng = np.random.default_rng(seed)
    dims = [int(d) for d in shape.dims]
    if shape.dtype.is_packed:
        return Argument.packed(shape, rng.integers(0, 256, int(shape.nbytes), np.uint8))
    values: NDArray[Any]
    if shape.dtype.is_float:
        values = rng.standard_normal(dims, np.float32) * np.float32(0.1)
    else:
        values = rng.integers(0, 2 if shape.dtype.kind == "bool" else 8, dims)
    return Argument(shape, values.astype(shape.dtype.numpy))


def _fits(kind: str, value: Any) -> bool:
    if kind.startswith("tuple"):
        return isinstance(value, tuple)
    wanted: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (float,),
        "bool": (bool,),
        "str": (str,),
        "Extent": (int, Dim),
        "Shape": (Shape,),
        "DType": (DType,),
        "Argument": (Argument,),
    }
    return kind not in wanted or (
        isinstance(value, wanted[kind]) and (kind == "bool" or not isinstance(value, bool))
    )


__all__ = ["drawn", "parse"]

"""The grammar of the text form: from text to blocks of statements, by recursive descent.

This module reads the syntax; ``migx.parser`` builds the program from it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar

from migx import dim
from migx.argument import Source
from migx.dim import Dim, Extent
from migx.errors import DimError, ParseError, ShapeError
from migx.shape import DType, Shape, no_type

_TOKEN = re.compile(
    r"""(?:[ \t\r\n]++|\#[^\n]*)*+"""
    r"""(?:(?P<result>%\w+)"""
    r"""|(?P<float>[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)(?!\.))"""
    r"""|(?P<int>\d+)"""
    r"""|(?P<name>@?[A-Za-z_][\w]*(?:\.\w+|::\w+)*)"""
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*")"""
    r"""|(?P<symbol>`[^`\n]*`)"""
    r"""|(?P<mark>\.\.|//|[-+*%(){}\[\]=:,])"""
    r"""|(?P<wrong>.))""",
    re.ASCII,
)


_KINDS = ("", *_TOKEN.groupindex)

T = TypeVar("T")
Find: TypeAlias = Callable[[str, int, int], Source]
"""Finds the bytes that a text refers to by file, offset and length."""


class Token(NamedTuple):
    """A token: its kind, its text, and its position."""

    kind: str
    text: str
    at: int


_token = partial(tuple.__new__, Token)  # a third of the time of Token(...), and there are many

Reference: TypeAlias = tuple[str | None, str, Token]
"""A use of a value: its module if it is given, its name, and its token."""


@dataclass(frozen=True)
class Data:
    """A literal's value as written; interpreting it needs the shape."""

    values: tuple[Any, ...] | None
    source: Source | None = None
    digest: str | None = None

    def __repr__(self) -> str:
        return "a literal's bytes" if self.values is None else f"the list {list(self.values)}"


@dataclass
class Statement:
    """A line of a module, with operands by name."""

    at: Token
    result: str
    op: str
    inputs: list[Reference]
    attributes: dict[str, Any] = field(default_factory=dict)
    modules: list[Token] = field(default_factory=list)
    shape: Shape | None = None
    origins: tuple[str, ...] = ()


@dataclass
class Block:
    """A module as written."""

    name: str
    at: Token
    parameters: list[tuple[str, Shape, Token]]
    statements: list[Statement]
    bypass: bool


class Reader:
    """A recursive-descent parser with one token of lookahead: ``next`` is the token to be read,
    ``past`` the position after the previous one.
    """

    def __init__(self, text: str, find: Find) -> None:
        self.text, self.find = text, find
        self.symbols: dict[str, Dim] = {}
        self._known: dict[tuple[str, str], Any] = {}
        self.go(0)

    def go(self, to: int) -> None:
        """Moves to the first token at or after a position."""
        self.past, self.next = to, self.token(to)

    def step(self) -> Token:
        """The next token; moves on to the one after it."""
        token = self.next
        self.go(token.at + len(token.text))
        return token

    def token(self, start: int) -> Token:
        """The first token at or after a position."""
        found = _TOKEN.match(self.text, start)
        if found is None:
            return Token("end", "", len(self.text.rstrip()))
        kind = found.lastindex or 0
        return _token((_KINDS[kind], found[kind], found.start(kind)))

    def fail(self, message: str, at: Token) -> NoReturn:
        before = self.text[: at.at]
        line, column = before.count("\n") + 1, at.at - before.rfind("\n")
        shown = self.text.split("\n")[line - 1]
        raise ParseError(
            f"line {line}, column {column}: {message}\n  {shown}\n"
            f"  {' ' * (column - 1)}{'^' * max(1, len(at.text))}"
        )

    def known(self, closing: str, read: Callable[[], T]) -> T:
        """The result of ``read``, cached by its text up to the first ``closing``, if it ends there:
        the same text is not parsed twice.
        """
        start = self.next.at
        end = self.text.find(closing, start) + 1
        key = read.__name__, self.text[start:end]
        if key in self._known:
            self.go(end)
        else:
            made = read()
            if self.past != end:
                return made
            self._known[key] = made
        found: T = self._known[key]
        return found

    def follows(self, *marks: str) -> bool:
        """Whether the token after the next one is one of ``marks``."""
        return self.token(self.next.at + len(self.next.text)).text in marks

    def take(self, kind_or_mark: str, expected: str = "") -> Token:
        token = self.next
        if kind_or_mark != (token.kind if kind_or_mark in _KINDS else token.text):
            self.unexpected(expected or repr(kind_or_mark))
        return self.step()

    def unexpected(self, expected: str) -> NoReturn:
        """Refuses the next token, saying what was expected."""
        token = self.next
        if token.kind == "wrong" and token.text in '"`':
            self.fail(f"expected {expected}; the opening {token.text} is not closed", token)
        found = repr(token.text) if token.text else "the end of the text"
        self.fail(f"expected {expected}, found {found}", token)

    def accept(self, mark: str) -> bool:
        if self.next.text != mark:
            return False
        self.step()
        return True

    def items(self, closing: str, read: Callable[[], T]) -> list[T]:
        """What ``read`` reads, separated by commas, up to the closing mark."""
        found: list[T] = []
        while not self.accept(closing):
            found.append(read())
            if self.next.text != closing:
                self.take(",", f"',' or {closing!r}")
        return found

    def blocks(self) -> list[Block]:
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
        if name in self.symbols:
            self.fail(f"dim {name!r} is declared twice", at)
        self.take("=")
        low = int(self.take("int", "the lower bound").text)
        self.take("..")
        high = int(self.take("int").text) if self.next.kind == "int" else None
        optimals = self.items("}", self.optimal) if self.accept("{") else []
        try:
            self.symbols[name] = Dim(name, low, high, optimals)
        except DimError as error:
            self.fail(str(error), at)

    def optimal(self) -> int:
        return int(self.take("int", "an optimal size").text)

    def symbol_name(self) -> str:
        if self.next.kind == "symbol":
            at = self.next
            return self.unescaped(self.step()) or self.fail("the name of a dim is empty", at)
        return self.take("name", "the name of a dim").text

    def block(self) -> Block:
        self.take("module", "'module'")
        at = self.next
        name = self.name("the module's name")
        self.take("(")
        parameters = self.items(")", self.parameter)
        bypass = self.accept("bypass")
        self.take("{")
        statements = []
        while not self.accept("}"):
            statements.append(self.statement())
        return Block(name, at, parameters, statements, bypass)

    def parameter(self) -> tuple[str, Shape, Token]:
        at, name = self.next, self.name("a parameter's name")
        self.take(":")
        return name, self.shape(), at

    def name(self, expected: str) -> str:
        if self.next.kind == "string":
            return self.string()
        return self.take("name", expected + self.quoted("", "double quotes")).text

    def quoted(self, what: str, marks: str) -> str:
        """A hint for the message if a name seems to lack its quotes."""
        seems = self.next.kind == "wrong" and self.next.text.isalpha()
        return f" (a name{what} that is no plain identifier stands in {marks})" if seems else ""

    def string(self, expected: str = "a string in double quotes") -> str:
        return self.unescaped(self.take("string", expected))

    def unescaped(self, token: Token) -> str:
        """The content of a quoted token."""
        text = token.text[1:-1]
        if "\\" not in text and text.isprintable():
            return text
        try:
            return str(json.loads(f'"{text}"'))
        except json.JSONDecodeError as error:
            self.fail(f"not a string: {error.msg}", token)

    def statement(self) -> Statement:
        at = self.next
        if self.accept("return"):
            return self.returned(at)
        result = self.take("result", "an instruction such as %0 = add(x, y), or 'return'").text
        self.take("=")
        where = self.next
        made = Statement(where, result, self.take("name", "the name of an operation").text, [])
        self.take("(")
        made.inputs = self.items(")", self.reference)
        if self.accept("{"):
            made.attributes = self.known("}", self.attributes)
        if self.accept("["):
            made.modules = self.items("]", self.module)
        if self.accept(":"):
            made.shape = self.shape()
        if self.accept("from"):
            made.origins = self.known('"\n', self.origins)
        return made

    def module(self) -> Token:
        at = self.next.at
        return Token("name", self.name("a module's name"), at)

    def origins(self) -> tuple[str, ...]:
        """``"node", "other node"``."""
        found = [self.string("the name of an ONNX node")]
        while self.accept(","):
            found.append(self.string())
        return tuple(found)

    def returned(self, at: Token) -> Statement:
        """``return %1, x`` or, with names, ``return logits=%1, "probs:0"=x``."""
        made = Statement(at, "", "@return", [])
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

    def reference(self) -> Reference:
        """The use of a value: ``%0``, ``x``, ``"a name"``, or with its module, ``main:%0``."""
        at, module = self.next, None
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
        for at, value in self.items("}", self.attribute):
            if at.text in found:
                self.fail(f"attribute {at.text!r} is given twice", at)
            found[at.text] = value
        return found

    def attribute(self) -> tuple[Token, Any]:
        at = self.take("name", "the name of an attribute")
        self.take("=")
        return at, self.value()

    def value(self) -> Any:
        token = self.next
        match token.kind, token.text:
            case "string", _:
                return self.string()
            case "float", _:
                return float(self.step().text)
            case "name", "true" | "false":
                return self.step().text == "true"
            case "name", "nan" | "inf":
                return self.bits(float(self.step().text))
            case "name", "bytes" | "sha256":
                return self.data()
            case _, "[":
                return self.elements()
            case _, "-" if self.follows("inf"):
                self.step()
                return -float(self.step().text)
            case "name", text if text in DType.known and self.follows("[", "("):
                return self.shape()
            case "name", text if text in DType.known and DType.known[text].is_tensor:
                return self.dtype()
            case _:
                return self.extent()

    def bits(self, plain: float) -> float | bytes:
        """The NaN with given bytes, ``nan("0000c07f")``; a float if there are eight."""
        if not self.accept("("):
            return plain
        at = self.next
        text = self.string("the bytes in hexadecimal")
        self.take(")")
        if not re.fullmatch("([0-9a-f]{2})+", text):
            self.fail("expected the bytes in hexadecimal", at)
        data = bytes.fromhex(text)
        return struct.unpack("<d", data)[0] if len(data) == 8 else data

    def dtype(self) -> DType:
        token = self.take("name", "an element type")
        if token.text not in DType.known:
            self.fail(no_type(token.text), token)
        return DType.known[token.text]

    def elements(self) -> Data:
        self.take("[")
        return Data(tuple(self.items("]", self.value)))

    def data(self) -> Data:
        """``bytes("file", offset, length, sha256="...")`` or ``sha256("...")``."""
        kind = self.take("name").text
        self.take("(")
        first = self.string()
        if kind == "sha256":
            self.take(")")
            return Data(None, digest=first)
        self.take(",")
        offset = int(self.take("int", "the offset in bytes").text)
        self.take(",")
        length = int(self.take("int", "the length in bytes").text)
        digest = None
        if self.accept(","):
            self.take("sha256")
            self.take("=")
            digest = self.string()
        self.take(")")
        return Data(None, self.find(first, offset, length), digest)

    def shape(self) -> Shape:
        """A shape, such as ``f32[2, 3]``, ``f32[2, 3]{1, 2}`` or ``tuple(f32[2], i64[])``."""
        at = self.next
        try:
            shape = self.known("]", self.standard)
            if shape.dtype.is_tensor and self.has_strides():
                return Shape(shape.dtype, shape.dims, self.extents("{", "}"))
        except ShapeError as error:
            self.fail(str(error), at)
        return shape

    def has_strides(self) -> bool:
        """Whether strides follow, not the body of a module whose parameter list is unclosed."""
        if self.next.text != "{":
            return False
        first = self.token(self.next.at + 1)
        return first.kind != "result" and (first.text != "return" or self.next.at == self.past)

    def standard(self) -> Shape:
        """A shape without strides."""
        dtype = self.dtype()
        if dtype.is_tensor:
            return Shape(dtype, self.extents("[", "]"))
        self.take("(")
        return Shape(dtype, parts=tuple(self.items(")", self.shape)))

    def extents(self, opening: str, closing: str) -> list[Any]:
        self.take(opening)
        return self.items(closing, self.extent)

    def extent(self) -> Any:
        """A sum of products of numbers, symbols, calls and parentheses; a tuple if parentheses
        contain one.
        """
        at = self.next
        total = -self.size(self.product(), at) if self.accept("-") else self.product()
        while self.next.text in ("+", "-"):
            mark = self.step().text
            term = self.size(self.product(), at)
            total = self.size(total, at) + (term if mark == "+" else -term)
        return total

    def product(self) -> Any:
        at = self.next
        total = self.atom()
        while self.next.text in ("*", "//"):
            mark = self.step().text
            factor, total = self.size(self.atom(), at), self.size(total, at)
            try:
                total = total * factor if mark == "*" else total // factor
            except DimError as error:
                self.fail(str(error), at)
        return total

    def size(self, value: Any, at: Token) -> Extent:
        """The value, if it is a number or dim; otherwise an error."""
        if not isinstance(value, Dim) and type(value) is not int:
            self.fail(f"expected numbers and dims to compute with, found {value!r}", at)
        return value

    def atom(self) -> Any:
        token = self.next
        if self.accept("("):
            return self.parenthesised()
        if token.kind == "int":
            return int(self.step().text)
        if token.text in ("min", "max", "broadcast"):
            self.step()
            args = [self.size(value, token) for value in self.extents("(", ")")]
            try:
                return dim.call(token.text, *args)
            except DimError as error:
                self.fail(str(error), token)
        if token.kind not in ("name", "symbol"):
            self.unexpected("a value" + self.quoted(" of a dim", "backticks"))
        name = self.symbol_name()
        return self.symbols.setdefault(name, Dim(name))

    def parenthesised(self) -> Any:
        """An expression in parentheses, or a tuple; ``(1,)`` is a tuple of one."""
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

"""Reads the text form of programs: ``parse(str(program)) == program``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx import plugins
from migx.argument import Argument, Source
from migx.base.collector import paused
from migx.base.files import inside
from migx.errors import MigxError, ParseError, there_are
from migx.fields import brought, required, text_of
from migx.ir import Instruction, Module
from migx.program import Program
from migx.shape import UNPACKED, DType, Shape
from migx.syntax import Block, Data, Find, Reader, Statement, Token

Values: TypeAlias = dict[tuple[bool, str], Instruction]
"""The values of a module by name: results such as ``%0``, and parameters, kept apart."""


@paused()
def parse(
    text: str,
    *,
    folder: str | Path = ".",
    draw_missing: int | None = None,
    find: Find | None = None,
) -> Program:
    """The program of a text. ``ParseError`` gives line, column and what was expected.

    Files of literals are mapped at first use: a relative path is looked up in ``folder``; an
    absolute one, as for the weights of an ONNX model, may be anywhere. ``draw_missing`` is a seed
    for drawing literals without bytes, each by its place, so that a text without its weights still
    runs. ``find`` replaces the lookup of files: ``within(folder)`` for texts that are not trusted.
    """
    if not isinstance(text, str):
        raise ParseError(f"a program's text is a str, not {type(text).__name__}")
    if "\n" not in text and Path(text).suffix in (".migx", ".mxr", ".onnx"):
        raise ParseError(
            f"{text!r} is the name of a file, and the text of a program is wanted; migx.load reads "
            ".mxr files, migx.parse_onnx ONNX files"
        )
    where: Find = find or (lambda name, offset, length: Source(Path(folder, name), offset, length))
    reader = Reader(text.removeprefix("\ufeff"), where)
    try:
        return _Builder(reader, draw_missing).program()
    except RecursionError:
        reader.fail("this is nested too deeply to be read", reader.next)


def within(folder: str | Path) -> Find:
    """A lookup of files that allows only those in a folder; ``DataError`` for any other path, such
    as an absolute one or a link that leads outside.
    """
    return lambda name, offset, length: Source(
        inside(Path(folder), name, "a literal"), offset, length
    )


class _Builder:
    """Builds the program from blocks; a submodule is built when its instruction is reached."""

    def __init__(self, reader: Reader, draw_missing: int | None) -> None:
        self.reader, self.draw_missing = reader, draw_missing
        self.made = Program()
        self.values: dict[Module, Values] = {}

    def program(self) -> Program:
        self.blocks: dict[str, Block] = {}
        for block in self.reader.blocks():
            if block.name in self.blocks:
                self.reader.fail(f"there are two modules named {block.name!r}", block.at)
            self.blocks[block.name] = block
        if "main" not in self.blocks:
            self.reader.fail("expected a module named main", self.reader.next)
        self.made.modules = {}
        for name in self.blocks:
            made = self.made.create_module(name)
            if name == "main":
                self.made.main = made
        inner = {t.text for b in self.blocks.values() for s in b.statements for t in s.modules}
        for name in ("main", *(n for n in self.blocks if n not in inner), *self.blocks):
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
            values[False, parameter] = module.add_parameter(parameter, shape)
        for statement in block.statements:
            if module.returned is not None:
                self.reader.fail(f"module {name!r} has returned before this", statement.at)
            self.statement(module, statement, values)
        if module.returned is None:
            self.reader.fail(f"module {name!r} has no return", block.at)
        return module

    def statement(self, module: Module, statement: Statement, values: Values) -> None:
        fail = self.reader.fail
        if (True, statement.result) in values:
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
        except ParseError:
            raise
        except MigxError as error:
            fail(str(error), statement.at)
        if statement.shape is not None and not made.shape.same_type(statement.shape):
            fail(
                f"{statement.op} gives {made.shape}, the text says {statement.shape}", statement.at
            )
        if statement.result:
            values[True, statement.result] = made

    def input(self, module: Module, owner: str | None, name: str, at: Token) -> Instruction:
        if owner is not None and owner not in self.blocks:
            self.reader.fail(f"there is no module {owner!r}", at)
        values = self.values.get(module if owner is None else self.made.modules[owner], {})
        key = (at.kind == "result", name)
        if key not in values:
            block = self.blocks[module.name if owner is None else owner]
            if any(key == (True, each.result) for each in block.statements):
                self.reader.fail(f"{name} is read before it is defined", at)
            known = there_are(name, (each for _, each in values))
            self.reader.fail(f"there is no value {name}; {known}", at)
        return values[key]

    def operation(self, statement: Statement) -> Any:
        cls = plugins.operation(statement.op)
        given = dict(statement.attributes)
        if isinstance(given.get("value"), Data):
            given["value"] = self.literal(given["value"], statement)
        if dataclasses.is_dataclass(cls):
            self.check_attributes(cls, given, statement)
        try:
            return cls(**given)
        except TypeError as error:
            self.reader.fail(f"{statement.op}: {error}", statement.at)

    def check_attributes(self, cls: Any, given: dict[str, Any], statement: Statement) -> None:
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name, value in given.items():
            if name not in fields:
                known = ", ".join(fields) or "no attributes"
                self.reader.fail(
                    f"{statement.op} has no attribute {name!r}; it has {known}", statement.at
                )
            kind = text_of(fields[name].type)
            try:
                given[name] = brought(statement.op, name, kind, value)
            except MigxError as error:
                listed = value.values if isinstance(value, Data) and "tuple" in kind else None
                hint = "" if listed is None else f"; a tuple stands in parentheses, {listed}"
                self.reader.fail(f"{error}{hint}", statement.at)
        if missing := [name for name in required(cls) if name not in given]:
            self.reader.fail(
                f"{statement.op} needs the attributes {', '.join(missing)}", statement.at
            )

    def literal(self, value: Data, statement: Statement) -> Argument:
        shape = statement.shape
        if shape is None:
            self.reader.fail("a literal's shape must follow it: ' : f32[2, 3]'", statement.at)
        if not shape.dtype.is_tensor or not shape.static:
            self.reader.fail("a literal is a tensor with dims that are numbers", statement.at)
        if value.values is not None:
            return self.listed(value.values, shape, statement)
        found = Argument(shape, source=value.source, digest=value.digest)
        if self.draw_missing is not None and not found.available:
            return drawn(shape, [self.draw_missing, statement.at.at])
        return found

    def listed(self, values: Sequence[Any], shape: Shape, statement: Statement) -> Argument:
        """A literal whose elements are in the text."""
        if len(values) != shape.elements:
            self.reader.fail(
                f"{shape} has {shape.elements} elements, the text {len(values)}", statement.at
            )
        array = np.empty(len(values), UNPACKED.get(shape.dtype, shape.dtype.numpy))
        for i, x in enumerate(values):
            try:
                with np.errstate(over="raise"):
                    array[i] = _element(x, shape.dtype)
                if shape.dtype.is_packed and array[i] != x:
                    raise ValueError(f"it would become {array[i]}")
            except (ArithmeticError, ValueError, TypeError) as error:
                self.reader.fail(f"{x!r} is no element of {shape.dtype}: {error}", statement.at)
        array = array.reshape([int(d) for d in shape.dims])
        return Argument.of(array) if shape.dtype.is_packed else Argument(shape, array)


_ELEMENTS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "uint": (int,),
    "float": (float, int, bytes),
    "string": (str,),
}


def _element(x: Any, dtype: DType) -> Any:
    """The stored form of a literal's element; ``TypeError`` if it is of the wrong type."""
    if isinstance(x, Data):
        raise TypeError("the elements must be one flat list, row after row")
    if type(x) not in _ELEMENTS[dtype.kind]:
        raise TypeError(f"it is a {type(x).__name__}")
    return np.frombuffer(x, dtype.numpy)[0] if isinstance(x, bytes) else x


def drawn(shape: Shape, seed: Any) -> Argument:
    """A literal with random values: floats normal and small, integers from a narrow range."""
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


__all__ = ["drawn", "parse", "within"]

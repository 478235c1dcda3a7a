"""Passes, pipelines, and the manager that runs them over every module.

A pass is a frozen dataclass whose fields are its options and whose name is its file's name. A
pipeline is text and parses back:
``propagate_constant{skip_ops=(dequantizelinear)},simplify_reshapes``.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform

from migx import plugins
from migx.dead_code import remove_dead_code, remove_dead_modules
from migx.errors import IRError, ParseError
from migx.ir import Module, Program
from migx.op import snake_case


@dataclass_transform(frozen_default=True)
class Pass:
    """A named change to a program. A subclass is a frozen dataclass of its options and defines one
    of the two methods.

    Passes are deterministic and idempotent: run again, they report that nothing changed.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)
        cls.name = snake_case(cls.__name__)

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Changes one module in place; says whether it changed anything."""
        return False

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Changes the program as a whole, after ``apply`` has seen each module; says whether it
        changed anything.
        """
        return False

    def __str__(self) -> str:
        given = [
            f"{f.name}={_option_text(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}{{{','.join(given)}}}" if given else self.name


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order they run. ``Pipeline.parse(str(p)) == p``."""

    steps: tuple[Pass, ...] = ()

    @classmethod
    def of(cls, given: Pipeline | str | Iterable[Pass]) -> Pipeline:
        if isinstance(given, str):
            return cls.parse(given)
        return given if isinstance(given, Pipeline) else cls(tuple(given))

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline a text stands for; unknown passes and options are errors that list what
        there is.
        """
        return cls(tuple(_parse_step(step) for step in _split(text)))

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline(self.steps + other.steps)

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))


@dataclass(frozen=True)
class Step:
    """What an observer is told: the pass, its place in the pipeline, and the program it works
    on.
    """

    of: Pass
    index: int
    pipeline: Pipeline
    program: Program


class Observer:
    """Sees each pass come and go. Printing, timing, verifying and crash files are observers:
    ``migx.observers``.
    """

    def started(self, program: Program, pipeline: Pipeline) -> None:
        """Before the first pass of a pipeline."""

    def before(self, step: Step) -> None:
        """Before a pass."""

    def after(self, step: Step, changed: bool, seconds: float) -> None:
        """After a pass and the removal of what it left dead."""

    def failed(self, step: Step, error: Exception) -> None:
        """When a pass, or an observer after it, has raised; the error goes on to the caller."""


class PassManager:
    """Runs pipelines over a program: each pass over every module, submodules first, then over the
    program.

    Modules marked ``bypass`` are left alone. What a pass that reports a change leaves dead is
    removed.
    """

    def __init__(self, program: Program, observers: Sequence[Observer] = ()) -> None:
        self.program, self.observers = program, tuple(observers)

    def run(self, passes: Pipeline | str | Iterable[Pass]) -> bool:
        """Runs passes in order; says whether any changed anything."""
        pipeline = Pipeline.of(passes)
        for observer in self.observers:
            observer.started(self.program, pipeline)
        changes = [
            self._run_step(Step(p, i, pipeline, self.program)) for i, p in enumerate(pipeline)
        ]
        return any(changes)

    def _run_step(self, step: Step) -> bool:
        for observer in self.observers:
            observer.before(step)
        start = time.perf_counter()
        try:
            changed = self.run_pass(step.of)
            for observer in self.observers:
                observer.after(step, changed, time.perf_counter() - start)
        except Exception as error:
            for observer in self.observers:
                observer.failed(step, error)
            error.add_note(f"in pass {step.of}, number {step.index + 1} of {step.pipeline}")
            raise
        return changed

    def run_pass(self, step: Pass) -> bool:
        """Runs one pass, unobserved: what a pass calls to run another."""
        changed = False
        for module in self.modules():
            if module.bypass or self.program.modules.get(module.name) is not module:
                continue
            if step.apply(module, self):
                remove_dead_code(module)
                changed = True
        changed |= step.apply_program(self.program, self)
        if changed:
            remove_dead_modules(self.program)
            for module in self.modules():
                if not module.bypass:
                    remove_dead_code(module)
        return changed

    def modules(self) -> list[Module]:
        """All modules, each once, submodules before those that hold them."""
        found: dict[Module, None] = {}
        for module in self.program.modules.values():
            found.update(dict.fromkeys(self.program.submodules(module)))
        return list(found)

    def create_module(self, name: str) -> Module:
        """A new module; a number is added to a name that is taken."""
        taken, count = name, 0
        while taken in self.program.modules:
            count += 1
            taken = f"{name}_{count}"
        return self.program.create_module(taken)

    def rename_module(self, module: Module, name: str) -> None:
        self.program.rename_module(module, name)

    def common_parent(self, module: Module) -> Module:
        """The innermost module that holds, at any depth, every instruction this one is an argument
        of.
        """
        chains = [_around(p.module) for p in module.parents if p.module is not None]
        if not chains:
            raise IRError(f"module {module.name} is nobody's argument")
        return next(m for m in chains[0] if all(m in chain for chain in chains))


def run_passes(
    program: Program, passes: Pipeline | str | Iterable[Pass], observers: Sequence[Observer] = ()
) -> bool:
    """Runs passes over a program in place, without a target; says whether anything changed."""
    return PassManager(program, observers).run(passes)


def _around(module: Module) -> list[Module]:
    """A module and those around it, from the inside out; ``main`` last."""
    chain = [module]
    while (parent := chain[-1].parent) is not None and parent.module is not None:
        chain.append(parent.module)
    return [*chain, *([] if chain[-1] is module.program.main else [module.program.main])]


_STEP = re.compile(r"\s*(\w+)\s*(?:\{(.*)\})?\s*", re.DOTALL)


_PIECE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|.""", re.DOTALL)


def _split(text: str) -> list[str]:
    """Splits at commas that stand in no bracket and no quotes."""
    pieces, depth = [""], 0
    for piece in _PIECE.findall(text):
        depth += (piece in ("(", "{", "[")) - (piece in (")", "}", "]"))
        if piece == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += piece
    return [p.strip() for p in pieces if p.strip()]


def _parse_step(text: str) -> Pass:
    if (found := _STEP.fullmatch(text)) is None:
        raise ParseError(f"expected a pass such as name or name{{option=value}}, found {text!r}")
    cls = plugins.load("passes", found[1])
    fields = {f.name: f for f in dataclasses.fields(cls)}
    options: dict[str, Any] = {}
    for piece in _split(found[2] or ""):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if name not in fields or not equals:
            known = ", ".join(f"{f.name}: {f.type}" for f in fields.values()) or "none"
            raise ParseError(f"pass {found[1]} has no option {piece!r}; its options are {known}")
        kind = str(fields[name].type)
        options[name] = _option(value, kind)
        if not isinstance(options[name], _KINDS.get(kind, object)):
            raise ParseError(f"pass {found[1]}: {name} is {kind}, not {value}")
    made: Pass = cls(**options)
    return made


_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


def _option(text: str, kind: str) -> Any:
    """An option's value: a literal of Python, or bare words as strings; one item stands for a tuple
    of one.
    """
    if kind.startswith("tuple") and text.startswith("("):
        return tuple(_option(piece, "") for piece in _split(text[1:-1]))
    try:
        value = (
            {"true": True, "false": False}[text]
            if text in ("true", "false")
            else ast.literal_eval(text)
        )
    except (ValueError, SyntaxError):
        value = text
    return (value,) if kind.startswith("tuple") and not isinstance(value, tuple) else value


def _option_text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({','.join(map(_option_text, value))})"
    if (
        isinstance(value, str)
        and re.fullmatch(r"[A-Za-z_][\w:.]*", value)
        and value not in ("true", "false", "True", "False", "None")
    ):
        return value
    return str(value).lower() if isinstance(value, bool) else repr(value)

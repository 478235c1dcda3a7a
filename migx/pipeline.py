"""Pipelines: passes in order, and groups of them that run to a fixpoint.

The text of a pipeline, options and groups included, parses back:
``fixpoint{max=4}(simplify_reshapes,simplify_algebra),propagate_constant{skip_ops=(dequantizelinear)}``.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from migx import plugins
from migx.errors import FieldError, ParseError, PassError
from migx.fields import brought, required, text_of

if TYPE_CHECKING:
    from migx.argument import Argument
    from migx.ir import Instruction
    from migx.manager import Pass
    from migx.op import Array

Element: TypeAlias = "Pass | Fixpoint"
Run: TypeAlias = "Callable[[Pass, str], bool]"
"""Runs one pass at its place in the pipeline; returns whether it changed anything."""


class Approximation:
    """How far off the results of an operation may be on purpose, if that depends on values. If not,
    and the values are in range, a number says so instead.
    """

    def of_elements(
        self, at: Instruction, inputs: Sequence[Argument], result: Argument
    ) -> Array | None:
        """The most that each element of a result may be off by; None if nothing."""
        raise NotImplementedError

    def of_tensor(self, at: Instruction) -> float:
        """How far off, relative to the largest element, each element of the worst input may be,
        independently and in either direction; 0 by default.
        """
        return 0.0


@dataclass(frozen=True)
class Pipeline:
    """Passes and groups in order. ``Pipeline.parse(str(p)) == p``."""

    steps: tuple[Element, ...] = ()

    def __post_init__(self) -> None:
        from migx.manager import Pass

        for step in self.steps:
            if isinstance(step, type):
                raise FieldError(f"{step.__name__} is a class; a pass is {step.__name__}()")
            if not isinstance(step, Pass | Fixpoint):
                raise FieldError(
                    f"{step!r} is no pass: give an instance of a subclass of Pass, a Fixpoint, or "
                    "the text of one"
                )

    @classmethod
    def of(cls, given: Pipeline | str | Iterable[Element | Pipeline | str]) -> Pipeline:
        """A pipeline of texts, passes, groups and pipelines, in order."""
        if isinstance(given, str):
            return cls.parse(given)
        if isinstance(given, Pipeline):
            return given
        if not isinstance(given, Iterable):
            named = isinstance(given, type) or hasattr(given, "approximations")
            name = getattr(given, "__name__", type(given).__name__)
            like = f"{name}()" if named else "'optimize_module'"
            raise FieldError(
                f"passes are a text or a list of them, such as [{like}], not {given!r}"
            )
        return cls(
            tuple(
                step
                for each in given
                for step in (cls.of(each) if isinstance(each, Pipeline | str) else (each,))
            )
        )

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline of a text; the name of a target stands for its list of passes. Errors about
        unknown passes and options list those that exist.
        """
        try:
            return cls.of(map(_parse_step, _split(text)))
        except RecursionError:
            raise ParseError("the pipeline's groups are nested too deeply to be read") from None

    def drive(self, run: Run, place: str = "") -> bool:
        """Runs the elements of the pipeline; returns whether any pass changed anything.

        A place is the path to a pass through its groups, ``2.0``. It is the same in each round of a
        group.
        """
        changed = False
        for i, step in enumerate(self.steps):
            here = f"{place}{i}"
            if isinstance(step, Fixpoint):
                changed |= step.drive(run, f"{here}.")
            elif (inner := step.pipeline()) is not None:
                changed |= inner.drive(run, f"{here}.")
            else:
                changed |= run(step, here)
        return changed

    def passes(self) -> list[Pass]:
        """Every pass, those in groups and those abbreviated by other passes included."""
        found: list[Pass] = []

        def note(each: Pass, _: str) -> bool:
            found.append(each)
            return False

        self.drive(note)
        return found

    def approximations(self) -> dict[str, tuple[float | Approximation, ...]]:
        """How much its passes change the results of operations on purpose, by operation name."""
        found: dict[str, tuple[float | Approximation, ...]] = {}
        for each in self.passes():
            for name, error in each.approximations.items():
                found[name] = (*found.get(name, ()), error)
        return found

    def __iter__(self) -> Iterator[Element]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline(self.steps + other.steps)

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))


@dataclass(frozen=True)
class Fixpoint:
    """A group that repeats until a round changes nothing, at most ``max`` times.

    If it is ``strict``, a last round that still changes something is a ``PassError``.
    """

    steps: Pipeline
    max: int = 10
    strict: bool = False

    def __post_init__(self) -> None:
        if self.max < 1:
            raise ParseError(f"fixpoint: max is at least 1, not {self.max}")

    def drive(self, run: Run, place: str) -> bool:
        """Runs the rounds; returns whether any changed anything.

        A pass that found nothing to do is skipped until another has changed something.
        """
        idle: set[str] = set()

        def run_unless_idle(step: Pass, here: str) -> bool:
            if here in idle:
                return False
            if changed := run(step, here):
                idle.clear()
            else:
                idle.add(here)
            return changed

        for done in range(self.max):
            if not self.steps.drive(run_unless_idle, place):
                return done > 0
        if self.strict:
            raise PassError(f"{self} still changed the program in its last round")
        return True

    def __str__(self) -> str:
        return f"{with_options('fixpoint', self, ('steps',))}({self.steps})"


def enable_if(condition: bool, *steps: Element | Pipeline | str) -> Pipeline:
    """The steps if the condition holds, otherwise nothing: for the lists of targets."""
    return Pipeline.of(steps) if condition else Pipeline()


def with_options(name: str, given: Any, apart: tuple[str, ...] = ()) -> str:
    """The text of a pass or group: its name, and the options that differ from their defaults."""
    options = [
        f"{f.name}={_option_text(getattr(given, f.name))}"
        for f in dataclasses.fields(given)
        if f.name not in apart and getattr(given, f.name) != f.default
    ]
    return f"{name}{{{','.join(options)}}}" if options else name


_STEP = re.compile(r"\s*(\w+(?:::\w+)?)\s*(?:\{(.*?)\})?\s*(?:\((.*)\))?\s*", re.DOTALL)
_PIECE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|.""", re.DOTALL)


def _split(text: str) -> list[str]:
    """Splits at commas outside brackets and quotes. ``ParseError`` if one has nothing before it."""
    pieces, depth = [""], 0
    for piece in _PIECE.findall(text):
        depth += (piece in ("(", "{", "[")) - (piece in (")", "}", "]"))
        if piece == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += piece
    *found, last = (p.strip() for p in pieces)
    if "" in found:
        raise ParseError(f"there is nothing before a comma in {text!r}: leave out the comma")
    return [*found, last] if last else found


def _parse_step(text: str) -> Element | Pipeline:
    name, options, inner = _parts("pass", text)
    if name == "fixpoint":
        given = _options("fixpoint", Fixpoint, options, ("steps",))
        return Fixpoint(Pipeline.parse(inner or ""), **given)
    if inner is not None:
        raise ParseError(f"only fixpoint holds passes in parentheses, found {text!r}")
    if name in plugins.names("targets") and name not in plugins.names("passes"):
        from migx.target import get_target, passes_for

        return passes_for(get_target(text))
    made: Pass = instance("passes", text)
    return made


def instance(kind: str, text: str) -> Any:
    """The pass or target of a text: its name, and its options if there are any. Raises the errors
    of ``Pipeline.parse``, and ``FieldError`` for a class that takes more than options.
    """
    what = "pass" if kind == "passes" else "target"
    name, options, inner = _parts(what, text)
    if inner is not None:
        raise ParseError(f"expected a {what} such as name or name{{option=value}}, found {text!r}")
    cls = plugins.load(kind, name)
    given = _options(f"{what} {name}", cls, options)
    try:
        return cls(**given)
    except TypeError as error:
        if isinstance(error, FieldError):
            raise
        raise FieldError(f"{what} {name} is not made by its options alone: {error}") from error


def _parts(what: str, text: str) -> tuple[str, str, str | None]:
    """A name, the text of its options, and the contents of the parentheses, None without any."""
    if (found := _STEP.fullmatch(text)) is None:
        raise ParseError(f"expected a {what} such as name or name{{option=value}}, found {text!r}")
    return found[1], found[2] or "", found[3]


def _options(whose: str, cls: type[Any], text: str, apart: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options in a text, by name, converted to the types of their fields."""
    fields = {f.name: text_of(f.type) for f in dataclasses.fields(cls) if f.name not in apart}
    options: dict[str, Any] = {}
    for piece in _split(text):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if name not in fields or not equals:
            known = ", ".join(f"{name}: {kind}" for name, kind in fields.items())
            there = f"its options are {known}" if known else "it has none"
            raise ParseError(f"{whose} has no option {piece!r}; {there}")
        try:
            options[name] = brought(whose, name, fields[name], _option(value, fields[name]))
        except FieldError as error:
            raise ParseError(f"{whose}: {name} is {fields[name]}, not {value}") from error
    for name in required(cls):
        if name in fields and name not in options:
            raise ParseError(f"{whose} needs the option {name}: {fields[name]}")
    return options


def _option(text: str, kind: str) -> Any:
    """The value of an option: a Python literal, with bare words as strings; a single item may stand
    for a tuple of one.
    """
    if kind.startswith("tuple") and text.startswith("("):
        inner = kind.removeprefix("tuple[").removesuffix(", ...]")
        return tuple(_option(piece, inner) for piece in _split(text[1:-1]))
    value: Any = text
    try:
        if text in ("true", "false"):
            value = text == "true"
        else:
            value = float(text) if kind == "float" else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
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

"""Patterns that read like the graph they match.

    x, w = var("x"), constant("w")
    on(ops.Add, on(ops.Dot, x, w, name="dot").once(), constant("bias"))

A pattern is matched against an instruction and catches whatever has a name: instructions by
``var``, ``constant``, ``value`` and ``on(..., name=)``, attributes by ``attr``. Operands of
commutative operations match in either order. Matching backtracks: a pattern matches if there is any
way to match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from migx import askable
from migx import op as operations
from migx.ir import Instruction
from migx.ops import builtin
from migx.weights import is_readable

Then: TypeAlias = Callable[[], bool]
"""The rest of the match; returns whether it succeeds."""
Test: TypeAlias = Callable[[Any], bool]
Caught: TypeAlias = tuple[str, str]


@dataclass
class Match:
    """What has been caught so far. ``instructions`` are those matched by ``on``, ``values`` the
    literals whose values may be read.

    ``relied_on_by`` names the pass in assumptions on weights. ``refused`` is called with each
    pattern that failed, the instruction and the reason.
    """

    caught: dict[str, Any] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    values: list[Instruction] = field(default_factory=list, repr=False)
    relied_on_by: str = field(default="", repr=False)
    refused: Callable[[Pattern, Instruction, str], None] | None = field(default=None, repr=False)

    def catch(self, by: Pattern, at: Instruction, name: str, what: Any, then: Then) -> bool:
        """Catches ``what`` under a name, which must not have caught anything else, and goes on."""
        if not name:
            return then()
        if name in self.caught:
            if _same(self.caught[name], what):
                return then()
            return self.refuse(by, at, "is not the {} that was caught before", name)
        self.caught[name] = what
        if then():
            return True
        del self.caught[name]
        return False

    def forget(self) -> None:
        """Resets it for the next match."""
        self.caught.clear()
        self.instructions.clear()
        self.values.clear()

    def refuse(self, pattern: Pattern, at: Instruction, reason: str, *facts: Any) -> bool:
        """False, after reporting the reason, if there is ``refused``; otherwise not formatted."""
        if self.refused is not None:
            self.refused(pattern, at, reason.format(*facts))
        return False


@dataclass(frozen=True)
class Pattern:
    """Base class of patterns. ``a | b`` matches what either matches."""

    def match(self, at: Instruction, m: Match, then: Then) -> bool:
        """Whether an instruction matches and ``then`` succeeds; only then are catches kept."""
        raise NotImplementedError

    def catches(self) -> frozenset[Caught]:
        """Every name it always catches, and its kind: instruction or attribute."""
        return frozenset()

    def names(self) -> frozenset[str]:
        """Every name it always catches."""
        return frozenset(name for name, _ in self.catches())

    def roots(self) -> frozenset[str] | None:
        """The names of the operations it can match; None if it can match any."""
        return None

    def plausible(self, name: str, inputs: Sequence[str]) -> bool:
        """Whether it may match an operation with this name, given the names of the operations it
        reads; False is a proof that it cannot.
        """
        return _among(name, self.roots())

    def __or__(self, other: Pattern) -> Pattern:
        return OneOf((self, other))

    def __str__(self) -> str:
        """Its text: ``add(dot(x, constant w), _)``."""
        return "_"


@dataclass(frozen=True)
class Var(Pattern):
    """Any value; a name used twice must catch the same value."""

    name: str
    test: Test | None = None
    what: str = "value"

    def __post_init__(self) -> None:
        askable.name_and_test(self.name, self.test)

    def match(self, at: Instruction, m: Match, then: Then) -> bool:
        if self.what != "value" and at.constant != (self.what == "constant"):
            return m.refuse(self, at, "is {}constant", "" if self.what == "varying" else "not ")
        if self.test is not None and not self.test(at):
            return m.refuse(self, at, "is not what {} asks for", self.name or self.what)
        return m.catch(self, at, self.name, at, then)

    def catches(self) -> frozenset[Caught]:
        return _caught(self.name)

    def __str__(self) -> str:
        kind = "" if self.what == "value" else f"{self.what} "
        return f"{kind}{self.name or '_'}"


@dataclass(frozen=True)
class Value(Pattern):
    """A literal whose value may be read. ``number``: every element must equal it. ``several``:
    weights of more than one element may be relied on as well.
    """

    name: str = ""
    number: float | Test | None = None
    several: bool = False

    def match(self, at: Instruction, m: Match, then: Then) -> bool:
        relied_on_by = m.relied_on_by if self.several or at.shape.elements == 1 else ""
        if at.op.name != "@literal" or not is_readable(at, relied_on_by):
            return m.refuse(self, at, "has no value that may be read")
        if self.number is not None and not _holds(at, self.number):
            if callable(self.number):
                return m.refuse(self, at, "does not have the values asked for")
            return m.refuse(self, at, "is not {:g} throughout", self.number)
        # Assumptions are recorded only when a rule fires, so that no weight is pinned in vain.
        m.values.append(at)
        if m.catch(self, at, self.name, at, then):
            return True
        m.values.pop()
        return False

    def roots(self) -> frozenset[str] | None:
        return frozenset({"@literal"})

    def catches(self) -> frozenset[Caught]:
        return _caught(self.name)

    def __str__(self) -> str:
        number = "value" if self.number is None or callable(self.number) else f"{self.number:g}"
        return f"{number} {self.name}".rstrip()


@dataclass(frozen=True)
class Attribute:
    """Catches an attribute; ``test`` may refuse it."""

    name: str
    test: Test | None = None

    def fits(self, given: Any) -> bool:
        """Whether it may be caught."""
        return self.test is None or self.test(given)

    def __str__(self) -> str:
        return f"what {self.name} asks for"


@dataclass(frozen=True)
class On(Pattern):
    """An instruction by its operation, its attributes and its inputs: by one pattern for each in
    order, or by one pattern that ``every`` input matches, or ``some``.

    Without ``ops`` it matches any operation, or any that has the ``trait``.
    """

    ops: frozenset[str]
    inputs: tuple[Pattern, ...] | None
    name: str = ""
    attributes: tuple[tuple[str, Any], ...] = ()
    used_once: bool = False
    trait: str = ""
    which: Literal["in order", "every", "some"] = "in order"

    def __post_init__(self) -> None:
        askable.name_and_test(self.name)
        expect_patterns(self.inputs or ())
        read = frozenset[Caught]().union(*(p.catches() for p in self.inputs or ()))
        askable.apart(self.name, read, self.catches())

    def match(self, at: Instruction, m: Match, then: Then) -> bool:
        if self.ops and at.op.name not in self.ops:
            return m.refuse(self, at, "is not {}", self.listed)
        if self.trait and not getattr(operations.traits(at.op), self.trait):
            return m.refuse(self, at, "does not have the trait {}", self.trait)
        wanted = self.inputs if self.which == "in order" else None
        if wanted is not None and len(at.inputs) != len(wanted):
            return m.refuse(self, at, "has {} inputs, not {}", len(at.inputs), len(wanted))
        if self.used_once and at.use_count != 1:
            return m.refuse(self, at, "is used {} times, not once", at.use_count)
        for name, asked in self.attributes:
            if not hasattr(at.op, name):
                return m.refuse(self, at, "has no attribute {}", name)
            given = getattr(at.op, name)
            if not (asked.fits(given) if isinstance(asked, Attribute) else _same(given, asked)):
                return m.refuse(self, at, "has {} {}, not {}", name, given, asked)
        m.instructions.append(at)
        if not (self.name or self.attributes):
            matched = self._inputs(at, m, then)
        else:
            matched = m.catch(self, at, self.name, at, lambda: self._attributes(0, at, m, then))
        if not matched:
            m.instructions.pop()
        return matched

    def _attributes(self, i: int, at: Instruction, m: Match, then: Then) -> bool:
        """Catches the attributes from the i-th on, then matches the inputs."""
        if i == len(self.attributes):
            return self._inputs(at, m, then)
        name, wanted = self.attributes[i]
        caught = wanted.name if isinstance(wanted, Attribute) else ""
        given = getattr(at.op, name)
        return m.catch(self, at, caught, given, lambda: self._attributes(i + 1, at, m, then))

    def _inputs(self, at: Instruction, m: Match, then: Then) -> bool:
        patterns, inputs = self.inputs, at.inputs
        if not patterns:
            return then()
        if self.which == "every":
            return self._every(patterns[0], at, m, then)
        if self.which == "some":
            return any(patterns[0].match(value, m, then) for value in inputs)
        if _in_order(patterns, inputs, 0, m, then):
            return True
        swaps = len(inputs) == 2 and inputs[0] is not inputs[1]
        swaps = swaps and operations.traits(at.op).commutative
        return swaps and _in_order(patterns, inputs[::-1], 0, m, then)

    def _every(self, pattern: Pattern, at: Instruction, m: Match, then: Then) -> bool:
        """Matches each input; as the pattern catches nothing, it needs no backtracking."""
        if not at.inputs:
            return m.refuse(self, at, "has no inputs")
        matched, values = len(m.instructions), len(m.values)
        if all(pattern.match(value, m, nothing_left) for value in at.inputs) and then():
            return True
        del m.instructions[matched:], m.values[values:]
        return False

    @cached_property
    def listed(self) -> str:
        """The names of the operations, sorted."""
        return " or ".join(sorted(self.ops))

    def once(self) -> On:
        """This pattern, for an instruction with exactly one use."""
        return replace(self, used_once=True)

    def every(self, pattern: Pattern) -> On:
        """This pattern, for one or more inputs that all match a pattern that catches nothing."""
        if pattern.names():
            raise TypeError(f"{pattern} cannot match every input and catch one of them")
        return replace(self, inputs=(pattern,), which="every")

    def some(self, pattern: Pattern) -> On:
        """This pattern, for any number of inputs of which one matches; it is caught."""
        return replace(self, inputs=(pattern,), which="some")

    def catches(self) -> frozenset[Caught]:
        own = [_caught(a.name, "attribute") for _, a in self.attributes if isinstance(a, Attribute)]
        return _caught(self.name).union(*own, *(p.catches() for p in self.inputs or ()))

    def roots(self) -> frozenset[str] | None:
        return self.ops or None

    def plausible(self, name: str, inputs: Sequence[str]) -> bool:
        if self.ops and name not in self.ops:
            return False
        if self.inputs is None:
            return True
        roots = [pattern.roots() for pattern in self.inputs]
        if self.which != "in order":
            fit = (_among(each, roots[0]) for each in inputs)
            return any(fit) if self.which == "some" else bool(inputs) and all(fit)
        return len(roots) == len(inputs) and (
            all(map(_among, inputs, roots))
            or (len(inputs) == 2 and all(map(_among, reversed(inputs), roots)))
        )

    def __str__(self) -> str:
        which = self.listed or f"any {self.trait}".rstrip()
        attributes = ", ".join(
            name if isinstance(wanted, Attribute) else f"{name}={wanted}"
            for name, wanted in self.attributes
        )
        inputs = "..." if self.inputs is None else ", ".join(map(str, self.inputs))
        if self.which != "in order":
            inputs = f"{self.which} {inputs}"
        once = " once" if self.used_once else ""
        return f"{which}({inputs}){f' {{{attributes}}}' if attributes else ''}{once}"


@dataclass(frozen=True)
class OneOf(Pattern):
    """Matches what one of several patterns matches; the first that does counts."""

    choices: tuple[Pattern, ...]

    def __post_init__(self) -> None:
        expect_patterns(self.choices)

    def match(self, at: Instruction, m: Match, then: Then) -> bool:
        return any(choice.match(at, m, then) for choice in self.choices)

    def plausible(self, name: str, inputs: Sequence[str]) -> bool:
        return any(choice.plausible(name, inputs) for choice in self.choices)

    def catches(self) -> frozenset[Caught]:
        # Only names that every choice catches are always caught.
        return frozenset.intersection(*(c.catches() for c in self.choices))

    def roots(self) -> frozenset[str] | None:
        known = [c.roots() for c in self.choices]
        return None if None in known else frozenset().union(*(r for r in known if r is not None))

    def __str__(self) -> str:
        return f"[{' | '.join(map(str, self.choices))}]"


@dataclass(frozen=True)
class Skip(Pattern):
    """A pattern behind any number of wrappers, such as broadcasts, converts or reshapes."""

    wrappers: frozenset[str]
    inner: Pattern

    def __post_init__(self) -> None:
        expect_patterns((self.inner,))

    def match(self, at: Instruction, m: Match, then: Then) -> bool:
        if at.op.name in self.wrappers and at.inputs:
            m.instructions.append(at)
            if self.match(at.inputs[0], m, then):
                return True
            m.instructions.pop()
        return self.inner.match(at, m, then)

    def catches(self) -> frozenset[Caught]:
        return self.inner.catches()

    def roots(self) -> frozenset[str] | None:
        known = self.inner.roots()
        return None if known is None else known | self.wrappers

    def __str__(self) -> str:
        return f"skip[{', '.join(sorted(self.wrappers))}]({self.inner})"


def _in_order(
    patterns: tuple[Pattern, ...], values: tuple[Instruction, ...], i: int, m: Match, then: Then
) -> bool:
    """Whether each value from the i-th on matches its pattern, and ``then`` succeeds."""
    if i + 1 < len(patterns):
        return patterns[i].match(values[i], m, lambda: _in_order(patterns, values, i + 1, m, then))
    return patterns[i].match(values[i], m, then)


def nothing_left() -> bool:
    """The rest of a match that is complete: True."""
    return True


def _caught(name: str, of: str = "instruction") -> frozenset[Caught]:
    return frozenset({(name, of)} if name else ())


def expect_patterns(given: Iterable[object]) -> None:
    """``TypeError`` if one of the values is not a pattern."""
    for each in given:
        if not isinstance(each, Pattern):
            wanted = f"on({each.__name__})" if isinstance(each, type) else "var('x')"
            raise TypeError(f"{each!r} is no pattern; one is made as in {wanted}")


def _among(name: str, roots: frozenset[str] | None) -> bool:
    """Whether a name is among the possible roots of a pattern."""
    return roots is None or name in roots


def var(name: str = "", test: Test | None = None) -> Var:
    """Any value, or any instruction that passes a test."""
    return Var(name, test)


def constant(name: str = "", test: Test | None = None) -> Var:
    """A literal, a deferred weight, or a value computed from these alone. Rules may use its shape,
    never its value.
    """
    return Var(name, test, "constant")


def varying(name: str = "", test: Test | None = None) -> Var:
    """Any value that is not constant."""
    return Var(name, test, "varying")


def value(number: float | Test | None = None, name: str = "", *, several: bool = False) -> Value:
    """A literal whose value may be read; see ``migx.weights.value_of`` for when that is allowed.
    ``number`` is a number that every element must equal, rounded to its type, with -0.0 different
    from 0.0; or a predicate of the array. Replaceable weights of more than one element are caught
    only by ``several``: for values that another set of weights is likely to share, such as indices.
    """
    if not (number is None or callable(number) or isinstance(number, int | float)):
        raise TypeError(f"a value is a number or a test of the array, not {number!r}")
    askable.name_and_test(name)
    return Value(name, number, several)


def attr(name: str, test: Test | None = None) -> Attribute:
    """An attribute to catch, or to test and catch."""
    askable.name_and_test(name, test)
    return Attribute(name, test)


def on(ops: Any, *inputs: Pattern, name: str = "", **attributes: Any) -> On:
    """An instruction with a given operation: a class, a name, or a tuple of these. Without patterns
    for inputs, it matches any.

    Keywords are attributes: a value they must have, or ``attr`` to catch them.
    """
    given = askable.classes(ops if isinstance(ops, tuple) else (ops,))
    if inputs:
        askable.inputs(given, len(inputs))
    brings = {each: askable.attribute(given, each) for each in attributes}
    held = {k: v if isinstance(v, Attribute) else brings[k](v) for k, v in attributes.items()}
    return On(_names(given), inputs or None, name, tuple(held.items()))


def having(trait: str, *inputs: Pattern, name: str = "", **attributes: Any) -> On:
    """An instruction of any operation with a trait, such as ``pointwise``; see ``on``."""
    held = tuple(attributes.items())
    return On(frozenset(), inputs or None, name, held, trait=askable.trait(trait))


def skip(*wrappers: Any) -> Callable[[Pattern], Skip]:
    """A pattern modifier that looks through instructions of these operations, by first inputs:
    through as many as there are, and fewer only where the match fails otherwise.
    """
    names = _names(askable.classes(wrappers))
    return lambda inner: Skip(names, inner)


def _names(classes: Iterable[type[Any]]) -> frozenset[str]:
    return frozenset(each.name for each in classes)


def member(index: int, whole: On) -> On:
    """One result of an operation that has several, by its index."""
    if index < 0:
        raise TypeError(f"the index of a member is 0 or greater, not {index!r}")
    return On(frozenset({"get_tuple_elem"}), (whole,), attributes=(("index", index),))


def find(pattern: Pattern, at: Instruction, m: Match | None = None) -> Match | None:
    """The match of a pattern at an instruction; None if there is none."""
    if not isinstance(at, Instruction):
        raise TypeError(f"a pattern is matched at an instruction, not at {at!r:.60}")
    m = Match() if m is None else m
    return m if pattern.match(at, m, nothing_left) else None


def _same(a: Any, b: Any) -> bool:
    """Whether two values are the same instruction, or attributes that are equal bit for bit."""
    return a is b or operations.exact(a) == operations.exact(b)


def _holds(at: Instruction, wanted: float | Test) -> bool:
    """Whether every element of a literal is one number, or its array passes a test."""
    value = at.op_as(builtin.Literal).value
    dtype = value.shape.dtype
    if dtype.is_packed or not (dtype.is_float or dtype.is_integer or dtype.kind == "bool"):
        return False
    if callable(wanted):
        return bool(value.array.size) and wanted(value.array)
    return value.is_throughout(wanted)

"""Programs drawn to match the pattern of a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from migx import op as operations
from migx import ops, plugins
from migx.argument import Argument
from migx.ir import Instruction
from migx.match import Attribute, On, OneOf, Pattern, Skip, Value, Var, find
from migx.rewrite import Rule
from migx.shape import BOOL, Shape
from migx.testing.control import CONTROL
from migx.testing.draws import MANY, TUPLES, Dice, Want, draft, drawable, volume
from migx.testing.programs import Author, Drawn, is_fine

TRIES = 60
"""How many shapes are tried for the result of a pattern."""

NUMBERS = (0, 1, -1, 2, 0.5, -0.5, 3, 0.75, -2)
"""The first candidates for a literal that has to pass a test."""


MOTIFS = ("tiles", "twins", "products")
"""Occasionally drawn for a pattern that names only one operation."""

Below: TypeAlias = tuple[Pattern, ...]


class Mismatch(Exception):
    """A pattern cannot be matched with the shape or the values drawn."""


def draw_match(dice: Dice, rule: Rule, focus: Sequence[str]) -> Drawn | None:
    """A program that contains one or more matches of a rule, or None if none was found.

    Free inputs are drawn mostly from the operations in ``focus``.
    """
    writer = Matcher(dice, focus or names_in(rule.pattern), symbolic=dice.chance(0.4))
    writer.left = 60
    outputs, pattern = list[Instruction](), rule.pattern
    roots = pattern.roots()
    if roots is not None and roots <= set(TUPLES):
        pattern = On(frozenset({"get_tuple_elem"}), (pattern,))
    shape, wanted = None, dice.one_of((1, 1, 2, 2, 3, 4))
    control = sorted((roots or frozenset()) & CONTROL.keys())
    for _ in range(TRIES):
        like = shape or writer.shape()
        writer.caught.clear()
        free = control or (dice.chance(0.15) and len(names_in(pattern)) < 2)
        try:
            whole = writer.whole(dice.one_of(control or MOTIFS), like, 3) if free else None
            made = writer.match(pattern, Want(like)) if whole is None else whole
        except Mismatch:
            continue
        outputs.append(made)
        shape = like if dice.chance(0.8) else None
        if len(outputs) == wanted:
            break
    if not outputs:
        return None
    joined = writer.joined(outputs)
    if joined is not None:
        outputs = [joined]
    elif dice.chance(0.3):
        above = writer.apply(ops.Identity(), outputs[:1])
        outputs += [above] if above is not None else []
    return writer.finished(outputs)


class Matcher(Author):
    """Writes instructions that patterns match."""

    def __init__(self, dice: Dice, focus: Sequence[str] = (), symbolic: bool = False) -> None:
        super().__init__(dice, focus, symbolic)
        self.caught: dict[str, Any] = {}

    def match(self, pattern: Pattern, want: Want) -> Instruction:
        """A value as wanted that a pattern matches; ``Mismatch`` if there is none. The result of an
        operation has the wanted shape, but perhaps not the other properties.
        """
        match pattern:
            case OneOf(choices=choices):
                return self.match(self.dice.one_of(choices), want)
            case Skip(wrappers=wrappers, inner=inner):
                return self.wrapped(sorted(wrappers), inner, want)
            case Value():
                return self.readable(pattern, want)
            case On():
                return self.operation(pattern, want.shape)
            case Var():
                return self.variable(pattern, want)
        return self.value(want, 2)

    def operation(self, pattern: On, like: Shape) -> Instruction:
        names = sorted(pattern.ops & set(drawable()))
        if pattern.ops and not names:
            raise Mismatch(f"no draw for {', '.join(sorted(pattern.ops))}")
        names = names or [n for n in drawable() if not pattern.trait or _has(n, pattern.trait)]
        for _ in range(8):
            found = draft(self.dice.one_of(names), self.dice, like)
            if found is None or any(volume(w.shape) > MANY for w in found[1]):
                continue
            op, wants = found
            attributes = self.attributes(pattern, op)
            below = below_of(pattern, len(wants), self.dice)
            fits = below is None or len(below) == len(wants)
            if attributes is None or not fits:
                continue
            op = operations.with_attributes(op, **attributes) if attributes else op
            try:
                return self.put(op, pattern, below, wants, like)
            except Mismatch:  # another draw may read values that pass the test
                if below is None or not any(isinstance(p, Var) and p.test for p in below[:1]):
                    raise
        raise Mismatch(f"no {pattern} makes {like}")

    def put(
        self, op: Any, pattern: On, below: Below | None, wants: list[Want], like: Shape
    ) -> Instruction:
        if below is None:
            inputs = [self.value(w, 3) for w in wants]
        else:
            # Patterns for any value come last, since it may be one that another pattern names.
            pairs = sorted(
                enumerate(zip(below, wants, strict=True)),
                key=lambda pair: isinstance(pair[1][0], Var),
            )
            made_at = {i: self.match(p, w) for i, (p, w) in pairs}
            inputs = [made_at[i] for i in range(len(wants))]
            if len(inputs) == 2 and operations.traits(op).commutative and self.dice.chance(0.3):
                inputs.reverse()
        made = self.apply(op, inputs)
        if made is None or not made.shape.same_type(like):
            raise Mismatch(f"{op.name} does not make {like}")
        if pattern.used_once:
            self.known[made.shape.text].remove(made)
        if pattern.name and self.caught.setdefault(pattern.name, made) is not made:
            raise Mismatch(f"{pattern.name} is another value")
        return made

    def attributes(self, pattern: On, op: Any) -> dict[str, Any] | None:
        """The attributes that a pattern asks for and an operation does not have; None if it cannot
        have them.
        """
        changed = {}
        for name, wanted in pattern.attributes:
            if not hasattr(op, name):
                return None
            given = getattr(op, name)
            if isinstance(wanted, Attribute):
                if not wanted.fits(given):
                    return None
                if wanted.name and self.caught.setdefault(wanted.name, given) != given:
                    return None
            elif given != wanted:
                changed[name] = wanted
        return changed

    def variable(self, pattern: Var, want: Want) -> Instruction:
        there = self.caught.get(pattern.name) if pattern.name else None
        if there is not None:
            if not there.shape.same_type(want.shape):
                raise Mismatch(f"{pattern.name} has another shape")
            return there  # type: ignore[no-any-return]
        for _ in range(8):
            # An input of another operation may match here too, although it was not drawn for this.
            made = self.candidate(pattern, want if self.dice.chance(0.5) else Want(want.shape))
            if find(pattern, made) is not None:
                if pattern.name:
                    self.caught[pattern.name] = made
                return made
        raise Mismatch(f"nothing is {pattern}")

    def candidate(self, pattern: Var, want: Want) -> Instruction:
        if pattern.what == "constant" and want.shape.static:
            return self.constant(want)
        if pattern.what == "varying" and (want.constant or self.dice.chance(0.4)):
            return self.given(want)
        return self.value(want, self.dice.some(0, 3))

    def readable(self, pattern: Value, want: Want) -> Instruction:
        """A literal with the number asked for, or that passes the test."""
        like = want.shape
        if not like.static or like.parts or not like.dtype.is_tensor or like.dtype.is_packed:
            raise Mismatch(f"{like} cannot be a literal")
        least = (int(np.iinfo(like.dtype.numpy).min),) if like.dtype.is_integer else ()
        numbers = (None, *NUMBERS, *least) if callable(pattern.number) else (pattern.number,)
        for number in self.dice.sample(numbers, len(numbers)):
            if number is None:
                array = self.numbers(want)
            elif like.dtype is BOOL:
                array = np.full([int(d) for d in like.dims], bool(number))
            elif like.dtype.kind == "uint" and number < 0:
                continue
            else:
                with np.errstate(all="ignore"):  # overflow shows below as another number
                    whole = np.full([int(d) for d in like.dims], number)
                    array = whole.astype(like.dtype.numpy)
            value = Argument.of(array, like.dtype)
            made = self.module.add_literal(value)
            if is_fine(value):
                self.keep(made, value)
            else:  # it has no other users
                self.data[made] = value
            if find(pattern, made) is not None:
                return made
        raise Mismatch(f"no literal is {pattern}")

    def numbers(self, want: Want) -> NDArray[Any]:
        """Numbers that differ, occasionally by a constant step."""
        shape = want.shape
        if shape.dtype is not BOOL and self.dice.chance(0.3):
            line = np.arange(int(shape.elements)) % 100
            return line.reshape([int(d) for d in shape.dims]).astype(shape.dtype.numpy)
        fits = want.below or not shape.dtype.is_integer
        return self.array(shape, want if fits else replace(want, below=2))

    def wrapped(self, wrappers: Sequence[str], inner: Pattern, want: Want) -> Instruction:
        names = [n for n in wrappers if n in drawable()]
        if names and self.dice.chance(0.6):
            found = draft(self.dice.one_of(names), self.dice, want.shape)
            if found is not None and len(found[1]) == 1:
                below = self.match(inner, replace(want, shape=found[1][0].shape, values=()))
                made = self.apply(found[0], [below])
                if made is not None:
                    return made
        return self.match(inner, want)

    def joined(self, values: Sequence[Instruction]) -> Instruction | None:
        """Occasionally, several values of one shape combined into one."""
        alike = len(values) > 1 and all(v.shape.same_type(values[0].shape) for v in values)
        if not alike or not values[0].shape.rank or self.dice.chance(0.5):
            return None
        axis = self.dice.some(0, values[0].shape.rank - 1)
        if self.dice.chance(0.5):
            return self.apply(ops.Concat(axis), values)
        return self.apply(ops.Add(), values[:2])


def below_of(pattern: On, count: int, dice: Dice) -> Below | None:
    """The patterns of a number of inputs; None if any will do."""
    if pattern.inputs is None or pattern.which == "in order":
        return pattern.inputs
    (wanted,) = pattern.inputs
    chosen = dice.some(0, count - 1)
    return tuple(
        wanted if pattern.which == "every" or i == chosen else Var("") for i in range(count)
    )


def names_in(pattern: Pattern) -> tuple[str, ...]:
    """Every operation that a pattern names."""
    match pattern:
        case OneOf(choices=choices):
            return tuple(n for c in choices for n in names_in(c))
        case Skip(wrappers=wrappers, inner=inner):
            return (*sorted(wrappers), *names_in(inner))
        case On(ops=ops, inputs=inputs):
            return (*sorted(ops), *(n for p in inputs or () for n in names_in(p)))
        case _:
            return ()


def _has(name: str, trait: str) -> bool:
    return bool(getattr(operations.traits(plugins.operation(name)), trait))

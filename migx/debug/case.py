"""Cases: a program that shows a failure, with its inputs, and the files they are saved in.

A case is saved as the text of its program, whose first line may name the passes that fail, ``#
passes: p,q``, and an ``.npz`` file of its inputs beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from migx.argument import Argument
from migx.base.files import write_arrays
from migx.compiler import Compiled, ready
from migx.errors import MigxError, ShapeError
from migx.ir import Instruction
from migx.program import Program
from migx.shape import TUPLE, Shape
from migx.target import Seen, context_for, get_target
from migx.text import write
from migx.weights.epochs import LiveWeights

PASSES = "# passes:"
"""The start of a first line that names passes."""


@dataclass(frozen=True)
class Case:
    """A program and, if the failure depends on them, its inputs."""

    program: Program
    inputs: Mapping[str, Argument] | None = None

    @cached_property
    def values(self) -> Mapping[Instruction, Argument]:
        """The value of each instruction on ``ref``, as far as it runs; empty without inputs."""
        if self.inputs is None:
            return {}
        given = self.program.main.parameters
        values = {given[name]: value for name, value in self.inputs.items()}
        with suppress(MigxError):
            traced_on_ref(self.program, self.inputs, values.__setitem__)
        return values

    def of(self, made: Program, more: Mapping[str, Argument] | None = None) -> Case:
        """A case of another program, with those of this one's inputs, and ``more``, that it takes,
        cut to its dims.
        """
        if self.inputs is None:
            return Case(made)
        known = {**self.inputs, **(more or {})}
        given = made.main.parameters.items()
        return Case(made, {name: _cut(known[name], p.shape) for name, p in given})

    def fingerprint(self) -> tuple[str, ...]:
        """A value that is equal for equal cases."""
        values = (v.digest() for v in (self.inputs or {}).values())
        return self.program.fingerprint(), *values

    def save(self, path: Path, passes: str | None = None) -> None:
        """Writes the program's text to a file, with ``passes`` in its first line if given, and the
        inputs beside it.
        """
        self.save_inputs(path)
        head = "" if passes is None else f"{PASSES} {passes}\n"
        write(self.program, path, head=head, origins=True)

    def save_inputs(self, path: Path) -> None:
        """Writes the inputs, if there are any, beside the program's file."""
        if self.inputs is not None:
            arrays = {name: _arrays(value) for name, value in self.inputs.items()}
            write_arrays(path.with_suffix(".npz"), arrays)


def traced_on_ref(
    program: Program,
    inputs: Mapping[str, Argument],
    seen: Seen,
) -> list[Argument]:
    """The results of a program on ``ref``, without any passes; ``seen`` is called with each
    instruction and its result.
    """
    context = context_for(get_target("ref"))
    weights = LiveWeights(program.weights, context)
    made = ready(Compiled(program, context, weights, program.revision))
    return made.trace(dict(inputs), seen)


def passes_in(text: str) -> str | None:
    """The passes named in the first line of a text; None if there are none."""
    first = text.partition("\n")[0]
    return first.removeprefix(PASSES).strip() if first.startswith(PASSES) else None


def _arrays(value: Argument) -> Any:
    """The data of a value; of a tuple, those of its members."""
    return tuple(map(_arrays, value.parts)) if value.shape.dtype is TUPLE else value.data


def _cut(value: Argument, shape: Shape) -> Argument:
    """The leading part of a value, cut to the numeric dims of a shape."""
    if value.shape.dtype is TUPLE:
        pairs = zip(value.parts, shape.parts, strict=True)
        return Argument.tuple([_cut(part, wanted) for part, wanted in pairs])
    if value.shape.may_match(shape) or not value.shape.dtype.is_tensor:
        return value
    if value.shape.dtype.is_packed or value.shape.rank != shape.rank:
        raise ShapeError(f"{value.shape.text} cannot be cut to {shape.text}")
    kept = tuple(slice(d if isinstance(d, int) else None) for d in shape.dims)
    return Argument.of(value.array[kept].copy(), value.shape.dtype)

"""What must hold when passes run on a program, or a target runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from migx.argument import Argument
from migx.compiler import Compiled
from migx.debug.case import traced_on_ref
from migx.errors import MigxError
from migx.events import EventLog
from migx.manager import PassManager, Pipeline
from migx.observers import Verify
from migx.ops.builtin import Literal
from migx.parser import parse
from migx.program import Program
from migx.serialize import load, save
from migx.target import Target, passes_for
from migx.testing.bounds import NONE, Approximations, Bound, ElementBounds, compare

Inputs = Mapping[str, Argument]
Outputs = list[tuple[Argument, Bound]]


class Violation(MigxError):
    """A failed check: the oracle, and what it saw."""

    def __init__(self, oracle: str, message: str) -> None:
        super().__init__(f"{oracle}: {message}")
        self.oracle = oracle


class Trial:
    """A program and inputs, with which its transformed versions are compared; and inputs of other
    sizes, which the program may refuse.
    """

    def __init__(self, program: Program, inputs: Inputs, others: Sequence[Inputs] = ()) -> None:
        self.program, self.inputs, self.others = program, inputs, others

    def outputs(self, passes: Pipeline) -> Outputs:
        """The program's outputs on ``ref``, with an error bound for each element, which includes
        the passes' approximations.
        """
        return run_on_ref(self.program, self.inputs, self.program, passes.approximations())

    def runs(self, approximations: Approximations) -> Iterator[tuple[Inputs, Outputs]]:
        """All inputs that the program accepts, and its outputs for each."""
        yield self.inputs, run_on_ref(self.program, self.inputs, self.program, approximations)
        for inputs in self.others:
            try:
                outputs = run_on_ref(self.program, inputs, self.program, approximations)
            except MigxError:
                continue
            yield inputs, outputs

    def passes(self, pipeline: Pipeline, log: EventLog | None = None) -> bool:
        """Checks that passes leave a program that verifies, has the same inputs and results, has no
        larger constants, and is the same each time; and that a single pass or group is idempotent,
        which a list of several need not be. Returns whether they changed anything.
        """
        after, again = self.program.copy(), self.program.copy()
        changed = _run(after, pipeline, log)
        if _run(again, pipeline) != changed or after != again:
            raise Violation("deterministic", f"{pipeline} makes a different program each time")
        if not changed:
            if after != self.program:
                raise Violation(
                    "reports changes", f"{pipeline} changed the program and returned False"
                )
            return False
        self._expect_signature(after, pipeline)
        if len(pipeline) == 1 and _run(again, pipeline):
            raise Violation("idempotent", f"{pipeline} changes something when run again")
        self._expect_small(after, pipeline)
        for inputs, expected in self.runs(pipeline.approximations()):
            results = run_on_ref(after, inputs, self.program)
            expect_same("same outputs", f"after {pipeline}", results, expected)
        return True

    def target(self, target: Target | str, **options: Any) -> None:
        """Checks that a target computes what ``ref`` does, with the given options."""
        self.compiled(self.program.copy().compile(target, **options).compiled)

    def compiled(self, made: Compiled) -> None:
        """Checks that the compiled program computes what ``ref`` does, within both bounds."""
        target = made.context.target
        passes = passes_for(target, asked=made.context.options)
        lowered = self.program.copy()
        PassManager(lowered).run(passes)
        for inputs, expected in self.runs(passes.approximations()):
            given = {name: value.by_member(copied) for name, value in inputs.items()}
            with made.weights.reading() as slots:
                results = made.executable.run(given, slots)
            got = bounded(results, lowered, inputs, self.program, expected)
            expect_same("same outputs", f"after target {target.name}", got, expected)

    def round_trips(self) -> None:
        """Checks that the program survives a round trip through its text and its file."""
        if parse(str(self.program)) != self.program:
            raise Violation("text", "the text parses to another program")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "program.mxr"
            save(self.program, path)
            if load(path) != self.program:
                raise Violation("file", "the .mxr file holds another program")

    def _expect_signature(self, after: Program, pipeline: Pipeline) -> None:
        before, made = _inputs_of(self.program), _inputs_of(after)
        if made != before:
            raise Violation(
                "same inputs",
                f"{pipeline} changes the inputs from {before} to {made}, but callers pass the old "
                "ones: convert after an input, and keep an unused one",
            )
        names, left = self.program.main.output_names, after.main.output_names
        if left != names:
            raise Violation(
                "same outputs",
                f"{pipeline} changes the outputs from {', '.join(names)} to "
                f"{', '.join(left)}, but callers read the old ones",
            )

    def _expect_small(self, after: Program, pipeline: Pipeline) -> None:
        before, made = _constant_bytes(self.program), _constant_bytes(after)
        allowed = before + sum(p.constant_allowance for p in pipeline.passes())
        if made > allowed:
            raise Violation(
                "constants", f"{pipeline} leaves {made} bytes of constants, there were {before}"
            )


def expect_same(oracle: str, when: str, results: Outputs, expected: Outputs) -> None:
    """``Violation`` if a result differs from the expected one by more than both bounds."""
    pairs = zip(results, expected, strict=True)
    for i, ((got, after), (wanted, before)) in enumerate(pairs):
        found = compare(f"output {i}", got, wanted, before, after)
        if not found.passed:
            raise Violation(oracle, f"{when}, {found.name}: {found.problem}")


def bounded(
    results: Iterable[Argument],
    lowered: Program,
    inputs: Mapping[str, Argument],
    given: Program,
    expected: Outputs,
) -> Outputs:
    """A target's results for a lowered program, with their bounds. If some of its operations have
    no meaning of their own, those are the bounds of the original program.
    """
    try:
        bounds = [bound for _, bound in run_on_ref(lowered, inputs, given)]
    except MigxError:
        bounds = [bound for _, bound in expected]
    return list(zip(results, bounds, strict=True))


def copied(value: Argument) -> Argument:
    """A value in memory of its own; one that is no array unchanged."""
    is_array = value.shape.dtype.is_tensor
    return Argument(value.shape, value.array.copy()) if is_array else value


def run_on_ref(
    program: Program,
    inputs: Mapping[str, Argument],
    given: Program,
    approximations: Approximations = NONE,
) -> Outputs:
    """A program's results on ``ref`` without passes, with their bounds; literals that ``given``
    does not have count as rounded.
    """
    bounds = ElementBounds(program, inputs, given, approximations)
    results = traced_on_ref(program, inputs, bounds)
    return [(r, bounds.of(at)) for r, at in zip(results, program.main.outputs, strict=True)]


def _run(program: Program, pipeline: Pipeline, log: EventLog | None = None) -> bool:
    return PassManager(program, [Verify()], log).run(pipeline)


def _inputs_of(program: Program) -> str:
    named = program.main.parameters.items()
    return f"({', '.join(f'{name}: {p.shape.text}' for name, p in named)})"


def _constant_bytes(program: Program) -> int:
    shapes = {id(at.op_as(Literal).value): at.shape for at in program.literals}
    return sum(int(shape.nbytes) for shape in shapes.values())

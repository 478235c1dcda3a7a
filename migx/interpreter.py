"""Runs a program one instruction at a time, by the meanings of its operations: what ``ref`` does,
and targets that have kernels for some instructions do for the rest.

Each module has a plan for each set of sizes: its instructions with the symbols replaced, their
shapes inferred again on numbers (this checks what was undecidable over symbols), and after each
step the values that are dead. A symbol that depends on data is bound as soon as the value that
determines it has been computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.base.memory import installed
from migx.binding import Sizes, sizes_told
from migx.errors import EvaluationError, InputError
from migx.ir import Instruction, Module
from migx.meaning import (
    Kernel,
    as_function,
    by_kernel,
    by_meaning,
    failed,
    told_by,
)
from migx.op import Operation, Runnable
from migx.ops.builtin import Literal, Param, Return, Slot
from migx.program import Program
from migx.shape import Shape
from migx.sizes import asked_again, bound, check_sizes, read_symbols, symbols_of
from migx.target import NO_SLOTS, Context
from migx.text import draw_instruction
from migx.verify import captures_of

Values: TypeAlias = dict[Instruction, Argument]
Known: TypeAlias = Mapping[Instruction, Argument]
Kernels: TypeAlias = Callable[[Instruction, Sizes], Kernel | None]


class _Step(NamedTuple):
    """One instruction, ready to run. If ``late``, it has symbols that are bound only during the
    run; then sizes may be refused by the shape rules of ``checks``, itself or what it is made of.
    """

    at: Instruction
    op: Operation
    shape: Shape
    checks: tuple[Instruction, ...]
    late: bool
    dead: tuple[Instruction, ...]


@dataclass(frozen=True)
class _Layout:
    """What is known of a module independently of sizes: when its values die, and the symbols it
    depends on.
    """

    dead: dict[Instruction, tuple[Instruction, ...]]
    symbols: tuple[str, ...]


class _Call(NamedTuple):
    """The weights that one run reads, and its observer."""

    slots: Mapping[str, Argument]
    seen: Callable[[Instruction, Argument], object] | None


class Interpreter:
    """A program ready to run instruction by instruction: by ``kernels``, given an instruction and
    the sizes known by then, where these find one, and by meaning elsewhere. Everything is in host
    memory. It keeps only plans between runs, so runs may overlap.
    """

    def __init__(self, program: Program, context: Context, kernels: Kernels | None = None) -> None:
        self.program, self.context, self._kernels = program, context, kernels
        self._layout = lru_cache(maxsize=None)(_layout)
        self._plan = lru_cache(maxsize=64)(self._make_plan)

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        return self.trace(arguments, None, slots)

    def trace(
        self,
        arguments: Mapping[str, Argument],
        seen: Callable[[Instruction, Argument], object] | None,
        slots: Mapping[str, Argument] = NO_SLOTS,
    ) -> list[Argument]:
        """``run``, with ``seen(instruction, result)`` called for each parameter and instruction of
        any module, as they get their values.
        """
        main = self.program.main
        given = [arguments[name].read_only() for name in main.parameters]
        sizes = sizes_told(main, given)
        try:
            with np.errstate(all="ignore"):
                return self._run(main, given, {}, sizes, _Call(slots, seen))
        except RecursionError:
            raise EvaluationError(
                "modules are nested too deeply to be run inside each other: "
                "sys.setrecursionlimit allows more"
            ) from None

    def value(self, at: Instruction, sizes: Sizes, values: Known) -> Argument:
        """The result of an instruction by its meaning, from the values of those before it.
        ``EvaluationError``, drawn, if it has none.
        """
        op, shape = bound(at, sizes)
        inputs, call = [values[v] for v in at.inputs], _Call({}, None)
        modules = [self._runnable(m, values, sizes, call) for m in at.modules]
        return by_meaning(at, op, self.context, shape, inputs, modules)

    def _run(
        self,
        module: Module,
        arguments: Sequence[Argument],
        values: Values,
        sizes: Sizes,
        call: _Call,
    ) -> list[Argument]:
        for parameter, argument in zip(module.parameters.values(), arguments, strict=True):
            values[parameter] = argument
            if call.seen is not None:
                call.seen(parameter, argument)
        symbols = self._layout(module).symbols
        known = tuple((name, sizes[name]) for name in symbols if name in sizes)
        for step in self._plan(module, known):
            if type(step.op) is Return:
                return [values[v] for v in step.at.inputs]
            if type(step.op) is Slot:
                result = call.slots[step.op.slot]
            else:
                result, sizes = self._step(step, values, sizes, call)
            if call.seen is not None:
                call.seen(step.at, result)
            values[step.at] = result
            for value in step.dead:
                del values[value]
        raise EvaluationError(f"module {module.name} has no return")

    def _step(
        self, step: _Step, values: Known, sizes: Sizes, call: _Call
    ) -> tuple[Argument, Sizes]:
        """The result of one instruction, checked against its shape rule, and the sizes known
        then.
        """
        at, op, shape = step.at, step.op, step.shape
        if step.late:
            _check_known(step.checks, sizes)
            op, shape = bound(at, sizes)
            _check_room(at, shape)
        inputs = [values[v] for v in at.inputs]
        kernel = None if self._kernels is None else self._kernels(at, sizes)
        if kernel is not None:
            result = by_kernel(at, kernel, shape, inputs)
        else:
            modules = [self._runnable(m, values, sizes, call) for m in at.modules]
            result = by_meaning(at, op, self.context, shape, inputs, modules)
        if not step.late:
            return result, sizes
        try:
            return told_by(result, shape, sizes)
        except InputError as error:
            raise failed(at, error) from error

    def _runnable(self, module: Module, values: Known, sizes: Sizes, around: _Call) -> Runnable:
        """The module as a function of its parameters; captures are read from the enclosing
        values.
        """

        def run(arguments: Sequence[Argument], inner: Sizes) -> list[Argument]:
            return self._run(module, arguments, dict(values), inner, around)

        return as_function(module, sizes, run)

    def _make_plan(self, module: Module, known: tuple[tuple[str, int], ...]) -> list[_Step]:
        sizes = dict(known)
        dead, steps = self._layout(module).dead, []
        for at in module:
            names = symbols_of(at)
            late = not names <= sizes.keys()
            checks = tuple(asked_again([at]))
            if not late:
                _check_known(checks, sizes)
            op, shape = (at.op, at.shape) if late or not names else bound(at, sizes)
            if not late and type(at.op) is not Literal:
                _check_room(at, shape)
            if type(at.op) is not Param:
                steps.append(_Step(at, op, shape, checks, late, dead.get(at, ())))
        return steps


def _layout(module: Module) -> _Layout:
    last: dict[Instruction, Instruction] = {}
    names: dict[str, None] = {}
    for at in module:
        last[at] = at
        for value in (*at.inputs, *captures_of(at)):
            if value.module is module:
                last[value] = at
        names.update((s.name, None) for s in (*at.shape.symbols(), *operations.symbols(at.op)))
    dead: dict[Instruction, list[Instruction]] = {}
    for value, at in last.items():
        if type(at.op) is not Return and type(at.op) is not Param:
            dead.setdefault(at, []).append(value)
    return _Layout({at: tuple(values) for at, values in dead.items()}, tuple(names))


def _check_room(at: Instruction, shape: Shape) -> None:
    """Raises if a value is larger than the machine's memory, before any of it is allocated."""
    if shape.static and shape.dtype.is_tensor and int(shape.nbytes) > installed():
        said = f"{shape.text} takes {shape.nbytes} bytes, the machine has {installed()}"
        raise EvaluationError(draw_instruction(said, at))


def _check_known(checks: Iterable[Instruction], sizes: Sizes) -> None:
    """Raises ``InputError``, drawn, if the shape rule of one of the instructions refuses sizes that
    are known.
    """
    for each in checks:
        if read_symbols(each) <= sizes.keys():
            check_sizes(each, sizes)

"""Evaluates a program by the meanings of its operations.

Each module has a plan for each set of sizes: its instructions with the symbols replaced, their
shapes inferred again on numbers (this checks what was undecidable over symbols), and after each
step the values that are dead. A symbol that depends on data is bound as soon as the value that
determines it has been computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from migx import op as operations
from migx.argument import Argument
from migx.base.memory import installed
from migx.binding import Sizes, sizes_told
from migx.errors import EvaluationError
from migx.ir import Instruction, Module
from migx.meaning import FAILURES, as_function, expect_result, failed, told_by
from migx.op import Evaluate, Operation, Runnable
from migx.ops.builtin import Literal, Param, Return, Slot
from migx.program import Program
from migx.shape import Shape
from migx.sizes import bound, bound_now, check_sizes, symbols_of
from migx.target import NO_SLOTS, Context
from migx.text import draw_instruction
from migx.verify import captures_of

Values = dict[Instruction, Argument]


class _Step(NamedTuple):
    """One instruction, ready to run. If ``late``, it has symbols that are bound only during the
    run.
    """

    at: Instruction
    op: Operation
    evaluate: Evaluate
    shape: Shape
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


class RefExecutable:
    """A program compiled for ``ref``. It keeps only plans between runs, so runs may overlap."""

    def __init__(self, program: Program, context: Context) -> None:
        self.program, self.context = program, context
        self._layouts = {m: _layout(m) for m in program.modules.values()}
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
        known = tuple(
            (name, sizes[name]) for name in self._layouts[module].symbols if name in sizes
        )
        for step in self._plan(module, known):
            inputs = [values[v] for v in step.at.inputs]
            if type(step.op) is Return:
                return inputs
            modules = [self._runnable(m, values, sizes, call) for m in step.at.modules]
            try:
                if type(step.op) is Slot:
                    result = call.slots[step.op.slot]
                else:
                    result, sizes = self._step(step, inputs, modules, sizes)
            except FAILURES as error:
                raise failed(step.at, error) from error
            if call.seen is not None:
                call.seen(step.at, result)
            values[step.at] = result
            for value in step.dead:
                del values[value]
        raise EvaluationError(f"module {module.name} has no return")

    def _step(
        self, step: _Step, inputs: list[Argument], modules: list[Runnable], sizes: Sizes
    ) -> tuple[Argument, Sizes]:
        """The result of one instruction, checked against its shape rule, and the sizes known
        then.
        """
        if not step.late:
            result = step.evaluate(step.op, self.context, step.shape, inputs, modules)
            expect_result(step.shape, result)
            return result, sizes
        op, shape = bound_now(step.op, step.shape, sizes)
        _check_memory(shape)
        result = step.evaluate(op, self.context, shape, inputs, modules)
        result, sizes = told_by(result, shape, sizes)
        expect_result(result.shape, result)
        return result, sizes

    def _runnable(self, module: Module, values: Values, sizes: Sizes, around: _Call) -> Runnable:
        """The module as a function of its parameters; captures are read from the enclosing
        values.
        """

        def run(arguments: Sequence[Argument], inner: Sizes) -> list[Argument]:
            return self._run(module, arguments, dict(values), inner, around)

        return as_function(module, sizes, run)

    def _make_plan(self, module: Module, known: tuple[tuple[str, int], ...]) -> list[_Step]:
        sizes = dict(known)
        dead = self._layouts[module].dead
        early = set[Instruction]()
        steps = []
        for at in module:
            names = symbols_of(at)
            late = not names <= sizes.keys()
            if names and not late and early.issuperset(at.inputs) and not at.modules:
                check_sizes(at, sizes)
            op, shape = (at.op, at.shape) if late or not names else bound(at, sizes)
            if not late:
                early.add(at)
                if type(at.op) is not Literal:
                    _check_room(at, shape)
            if type(at.op) is not Param:
                without = type(op) in (Return, Slot)
                evaluate = _no_meaning if without else operations.evaluator(type(op))
                steps.append(_Step(at, op, evaluate, shape, late, dead.get(at, ())))
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
    try:
        _check_memory(shape)
    except MemoryError as error:
        raise EvaluationError(draw_instruction(str(error), at)) from error


def _check_memory(shape: Shape) -> None:
    """Raises if a value is larger than the machine's memory, before any of it is allocated."""
    if shape.static and shape.dtype.is_tensor and int(shape.nbytes) > installed():
        raise MemoryError(f"{shape.text} takes {shape.nbytes} bytes, the machine has {installed()}")


def _no_meaning(*_: Any) -> Argument:
    raise EvaluationError("returns and slots have no meaning of their own")

"""MIGraphX's programs, modules and instructions."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from migx import onnx
from migx.argument import Argument
from migx.compat.migraphx import lowering, macros
from migx.compat.migraphx.arguments import argument
from migx.compat.migraphx.forms import HOLDERS, Site
from migx.compat.migraphx.operations import macro, op
from migx.compat.migraphx.shapes import shape
from migx.compiler import Compiled
from migx.errors import CompatError, IRError, TargetError
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal, Param, Return
from migx.program import Program
from migx.shape import Shape
from migx.target import Target
from migx.target import get_target as find_target
from migx.text import show
from migx.verify import captures_of


class target:
    """A target by name: ``get_target("ref")``."""

    def __init__(self, name: str) -> None:
        self.name, self.kind = name, type(find_target(name))

    def takes(self, option: str) -> bool:
        """Whether the target has an option of this name."""
        return option in inspect.signature(self.kind).parameters

    def made(self, **options: Any) -> Target:
        """The migx target, with those of the options that it has."""
        return self.kind(**{key: value for key, value in options.items() if self.takes(key)})

    def __repr__(self) -> str:
        return f"<target {self.name}>"


def get_target(name: str) -> target:
    """The target with a name: ``ref``, ``cpu``, ``gpu`` or another that is installed."""
    return target(name)


class compile_modes(enum.Enum):
    """How much effort a compilation takes; ``max`` measures what a target can measure."""

    eager = 0
    balanced = 50
    max = 100


class instruction_ref:
    """An instruction of a module. Two are equal if they are the same instruction."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction

    def shape(self) -> shape:
        """The shape of its result; that of a ``@return`` of one value is the value's."""
        given = self.instruction.shape
        alone = isinstance(self.instruction.op, Return) and len(given.parts) == 1
        return shape.of(given.parts[0] if alone else given)

    def op(self) -> op:
        return op.of(self.instruction.op)

    def name(self) -> str:
        return self.instruction.name

    def inputs(self) -> list[instruction_ref]:
        return [instruction_ref(value) for value in self.instruction.inputs]

    def outputs(self) -> list[instruction_ref]:
        """The instructions that read this one."""
        return [instruction_ref(user) for user in self.instruction.users]

    def get_debug_symbols(self) -> set[str]:
        """The marks given when it was added, or the ONNX nodes it comes from."""
        return set(self.instruction.origins)

    def get_literal(self) -> argument:
        """The value of a ``@literal``; ``IRError`` for other instructions."""
        if not isinstance(self.instruction.op, Literal):
            raise IRError(f"{self.instruction!r} is no @literal")
        return argument(self.instruction.op.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, instruction_ref) and self.instruction is other.instruction

    def __hash__(self) -> int:
        return hash(self.instruction)

    def __repr__(self) -> str:
        return repr(self.instruction)


class module:
    """A list of instructions, built in order. Obtained from ``program.get_main_module`` and
    ``program.create_module``.
    """

    def __init__(self, made: Module) -> None:
        self.module = made

    def add_parameter(
        self, name: str, shape: shape, debug_symbols: Iterable[str] = ()
    ) -> instruction_ref:
        """Declares an input. A scalar (lens [1], strides [0]) may be given as one element."""
        if not (shape.dynamic() or shape.standard()):
            raise CompatError(
                f"parameter {name!r} is {shape}, but parameters lie in standard layout here: "
                "transpose or multibroadcast it in the program"
            )
        return _marked(self.module.add_parameter(name, shape.declared(name)), debug_symbols)

    def add_literal(self, data: Any, debug_symbols: Iterable[str] = ()) -> instruction_ref:
        """Adds a constant: a copy of an argument, or of anything with a buffer."""
        held = argument(data).value.array.copy()
        return _marked(self.module.add_literal(held), debug_symbols)

    def add_instruction(
        self,
        op: op,
        args: Sequence[instruction_ref],
        mod_args: Sequence[module] = (),
        debug_symbols: Iterable[str] = (),
    ) -> instruction_ref:
        """Adds an operation on the results of others."""
        at = Site(self.module, op.name(), [m.module for m in mod_args])
        if mod_args and op.name() not in HOLDERS:
            raise CompatError(f"{op.name()} takes no modules, but {len(mod_args)} are given")
        with self._marking(debug_symbols):
            return instruction_ref(lowering.lowered(at, op.given(), _given(args)))

    def add_macro(
        self,
        macro: macro,
        args: Sequence[instruction_ref],
        mod_args: Sequence[module] = (),
        debug_symbols: Iterable[str] = (),
    ) -> list[instruction_ref]:
        """Adds the instructions of a macro; returns its results."""
        if mod_args:
            raise CompatError(f"macro {macro.name()} takes no modules, but some are given")
        with self._marking(debug_symbols):
            made = macros.lowered(self.module, macro.name(), macro.given(), _given(args))
        return [instruction_ref(made)]

    def insert_macro(
        self,
        ins: instruction_ref,
        macro: macro,
        args: Sequence[instruction_ref],
        mod_args: Sequence[module] = (),
        debug_symbols: Iterable[str] = (),
    ) -> list[instruction_ref]:
        """Adds the instructions of a macro before an instruction; returns its results."""
        before = self._end()
        results = self.add_macro(macro, args, mod_args, debug_symbols)
        for made in self._behind(before):
            self.module.move_instruction(made, ins.instruction)
        return results

    def add_return(
        self, args: Sequence[instruction_ref], debug_symbols: Iterable[str] = ()
    ) -> instruction_ref:
        """Ends the module with its results."""
        return _marked(self.module.add_return(*_given(args)), debug_symbols)

    replace_return = add_return

    @contextmanager
    def _marking(self, debug_symbols: Iterable[str]) -> Iterator[None]:
        """Marks the instructions added in the block."""
        before = self._end()
        yield
        for made in self._behind(before):
            _marked(made, debug_symbols)

    def _end(self) -> Instruction | None:
        """The last instruction before the return."""
        return next((at for at in reversed(self.module) if at is not self.module.returned), None)

    def _behind(self, before: Instruction | None) -> list[Instruction]:
        """The instructions after one, or all, without the return."""
        found = self.module if before is None else self.module.following(before)
        return [at for at in found if at is not self.module.returned]

    def print(self) -> None:
        """Prints the module's program."""
        print(self)  # noqa: T201  # its purpose

    def __iter__(self) -> Iterator[instruction_ref]:
        return map(instruction_ref, self.module)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, module) and self.module is other.module

    def __hash__(self) -> int:
        return hash(self.module)

    def __repr__(self) -> str:
        return show(self.module.program)


def _marked(made: Instruction, debug_symbols: Iterable[str]) -> instruction_ref:
    """An instruction with exactly these marks."""
    made.origins = tuple(debug_symbols)
    return instruction_ref(made)


def _given(args: Sequence[instruction_ref]) -> list[Instruction]:
    return [each.instruction for each in args]


class program:
    """Modules of instructions, compiled for a target and run. ``program`` is the migx program."""

    def __init__(self, made: Program | None = None) -> None:
        self.program = Program() if made is None else made

    def get_main_module(self) -> module:
        return module(self.program.main)

    def create_module(self, name: str) -> module:
        return module(self.program.create_module(name))

    def get_parameter_names(self) -> list[str]:
        return [*self.program.main.parameters, *map(PLACE.format, self._places())]

    def get_parameter_shapes(self) -> dict[str, shape]:
        """The shapes of the inputs; if results stay on a device, also of the optional parameters
        ``main:#output_0`` and so on, buffers for the results.
        """
        parameters = self.program.main.parameters.items()
        places = {PLACE.format(i): each for i, each in self._places().items()}
        return {name: shape.of(at.shape) for name, at in parameters} | places

    def _places(self) -> dict[int, shape]:
        """The shapes of the results that may be written to a given buffer, by index."""
        results = enumerate(self.get_output_shapes() if self._stays_there() else ())
        return {i: each for i, each in results if not each.dynamic()}

    def _stays_there(self) -> bool:
        """Whether results stay on the device that computes them."""
        made = self.program._compiled
        return made is not None and not getattr(made.context.target, "offload_copy", True)

    def get_output_shapes(self) -> list[shape]:
        return [shape.of(value.shape.as_standard()) for value in self._outputs()]

    def _outputs(self) -> tuple[Instruction, ...]:
        """The results; the last instruction if there is no return."""
        main = self.program.main
        if main.returned is not None:
            return main.outputs
        return () if main.last is None else (main.last,)

    def is_compiled(self) -> bool:
        return self.program._compiled is not None

    def compile(
        self,
        t: target,
        offload_copy: bool = True,
        fast_math: bool = True,
        exhaustive_tune: bool = False,
        compile_mode: compile_modes = compile_modes.balanced,
    ) -> None:
        """Compiles the program for a target.

        Without ``offload_copy``, arguments and results of ``gpu`` stay on the device; other targets
        run in host memory either way. ``fast_math`` permits different results, but none differ:
        what rounds f32 more is left to migx's ``program.compile``, if asked. ``exhaustive_tune``
        measures on the device; ``CompatError`` if a target does not. ``compile_mode`` ``max`` does
        so if possible; the other modes are the same.
        """
        if exhaustive_tune and not t.takes("tune"):
            raise CompatError(f"target {t.name} measures nothing: leave exhaustive_tune out")
        self.ensure_return()
        tune = exhaustive_tune or compile_mode is compile_modes.max
        self.program.compile(t.made(offload_copy=offload_copy, tune=tune))

    def run(self, params: Mapping[str, Any]) -> list[argument]:
        """The results for arguments, or buffers, by the names of the parameters."""
        made = self._compiled()
        inputs, places = self._taken(params)
        return _put(made.results(made.arguments(inputs)), places, made.target)

    def run_async(self, params: Mapping[str, Any], stream: int, stream_name: str) -> list[argument]:
        """The results, ready for work enqueued to the stream later. ``TargetError`` if the target
        always waits; ``CompatError`` if the name is not a stream's.
        """
        if stream_name not in STREAMS:
            known = " or ".join(STREAMS)
            raise CompatError(f"a stream is named {known} after its type, not {stream_name!r}")
        made = self._compiled()
        inputs, places = self._taken(params)
        return _put(made.run_async(inputs, stream), places, made.target, stream)

    def _compiled(self) -> Compiled:
        if self.program._compiled is None:
            raise TargetError('compile the program first: p.compile(migraphx.get_target("ref"))')
        return self.program.compiled

    def _taken(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[int, argument]]:
        """The arguments as migx takes them, one element as a scalar if that is expected; and the
        buffers for results, by index.
        """
        places, shapes, given = {}, self._places(), dict(params)
        for i in [i for i in shapes if PLACE.format(i) in given]:
            places[i] = argument(given.pop(PLACE.format(i)))
            if places[i].get_shape() != shapes[i]:
                told = f"is {places[i].get_shape()}, not {shapes[i]}"
                raise CompatError(f"{PLACE.format(i)!r} {told}")
        wanted = {name: at.shape for name, at in self.program.main.parameters.items()}
        copied = not self._stays_there()
        taken = {name: _fitting(v, wanted.get(name), copied) for name, v in given.items()}
        return taken, places

    def sort(self) -> program:
        """The program itself, with each value before the first that reads it, so that two programs
        with the same computation are equal.
        """
        revision = self.program.revision
        for each in self.program.modules.values():
            _sort(each)
        self.program.revision = revision  # the compiled form is still valid
        return self

    def clone(self) -> program:
        """A copy of the program as it was before compilation."""
        return program(self.program.copy())

    def to_py(self) -> str:
        """Python code that makes the program, as ``p``, by parsing its text. It draws large
        literals that are not in files, as MIGraphX's does.
        """
        lines = "".join(f"    {line!r}\n" for line in str(self.whole()).splitlines(keepends=True))
        return (
            "import migx\nimport migx.compat.migraphx as migraphx\n\n"
            f"p = migraphx.program(migx.parse(\n{lines}, draw_missing=0))\n"
        )

    def write_netron_output(self, filename: str) -> None:
        """Writes the program as an ONNX file, which Netron shows and others run; ``OnnxError`` if
        ONNX lacks an operator.
        """
        onnx.write(self.whole(), filename)

    def ensure_return(self) -> None:
        """Makes the program return its last instruction if it has no return."""
        if self.program.main.returned is None:
            self.program.main.add_return(*self._outputs())

    def whole(self) -> Program:
        """The program, or a copy with a return if it has none."""
        if self.program.main.returned is not None:
            return self.program
        copied = self.clone()
        copied.ensure_return()
        return copied.program

    def print(self) -> None:
        """Prints the program's text."""
        print(self)  # noqa: T201  # its purpose

    def __eq__(self, other: object) -> bool:
        return isinstance(other, program) and self.program == other.program

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return str(self.program)


STREAMS = ("ihipStream_t", "CUstream_st")
PLACE = "main:#output_{}"
"""The name of the parameter for a result's buffer."""


def _put(
    results: Sequence[Argument],
    places: Mapping[int, argument],
    target: Any,
    stream: int | None = None,
) -> list[argument]:
    """Results as arguments, copied to their buffers on the target's device. Constants and results
    computed on the host are not there yet.
    """
    found = [argument(each) for each in results]
    for i, place in places.items():
        result: Any = found[i].value
        with nullcontext() if stream is None else target.device.on(stream):
            if result.elsewhere and result.shape.standard:
                target.device.move(place.data_ptr(), result.address, int(result.shape.nbytes))
            else:
                target.device.upload(place.data_ptr(), np.ascontiguousarray(result.array))
        found[i] = place
    return found


def _fitting(value: Any, wanted: Shape | None, copied: bool) -> Any:
    """A value as a parameter of a shape takes it; if ``copied``, arguments are in host memory."""
    if hasattr(value, "__cuda_array_interface__") and not (copied and isinstance(value, argument)):
        return value
    given = argument(value).value
    scalar = wanted is not None and wanted.dims == () and given.shape.dims == (1,)
    if scalar and not given.elsewhere:
        return Argument.of(given.array.reshape(()))
    return given


def _sort(made: Module) -> None:
    """Reorders the instructions of a module as its results need them; unused ones come last."""
    done: dict[Instruction, None] = {}
    stack = [*reversed(made)] if made.returned is None else [*reversed(made), made.returned]
    while stack:
        at = stack[-1]
        needed = [v for v in (*at.inputs, *captures_of(at)) if v.module is made and v not in done]
        stack.extend(reversed(needed))
        if not needed:
            done[stack.pop()] = None
    after = made.returned
    for at in reversed([at for at in done if at is not after and not isinstance(at.op, Param)]):
        if after is not None:
            made.move_instruction(at, after)
        after = at


__all__ = ["compile_modes", "get_target", "instruction_ref", "module", "program", "target"]

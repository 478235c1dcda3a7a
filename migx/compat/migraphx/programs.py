"""Programs, modules and instructions as MIGraphX's Python module has them."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import takewhile
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
    """What a program is compiled for, by name: ``get_target("ref")``."""

    def __init__(self, name: str) -> None:
        self.name, self.kind = name, type(find_target(name))

    def takes(self, option: str) -> bool:
        """Whether there is an option of this name."""
        return option in inspect.signature(self.kind).parameters

    def made(self, **options: Any) -> Target:
        """The target, with those of the options that it takes."""
        return self.kind(**{key: value for key, value in options.items() if self.takes(key)})

    def __repr__(self) -> str:
        return f"<target {self.name}>"


def get_target(name: str) -> target:
    """The target of a name: ``ref``, ``cpu``, ``gpu`` or another that is installed."""
    return target(name)


class compile_modes(enum.Enum):
    """How much is spent on a compilation; ``max`` measures what a target can measure."""

    eager = 0
    balanced = 50
    max = 100


class instruction_ref:
    """An instruction of a module. Two are equal where they are the same one."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction

    def shape(self) -> shape:
        """What it computes; a ``@return`` of one value is of the shape of that."""
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
        """What it was marked with when it was added, or the ONNX nodes that it comes from."""
        return set(self.instruction.origins)

    def get_literal(self) -> argument:
        """The value of a ``@literal``; ``IRError`` where it is another instruction."""
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
    """A list of instructions, built from first to last. Made by ``program.get_main_module`` and
    ``program.create_module``.
    """

    def __init__(self, made: Module) -> None:
        self.module = made

    def add_parameter(
        self, name: str, shape: shape, debug_symbols: Iterable[str] = ()
    ) -> instruction_ref:
        """Declares an input. A scalar, lens [1] and strides [0], may be given as one element."""
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
        """Adds the instructions of a macro; its results."""
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
        """Adds the instructions of a macro before an instruction; its results."""
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
        """Marks the instructions that are added in the block."""
        before = self._end()
        yield
        for made in self._behind(before):
            _marked(made, debug_symbols)

    def _end(self) -> Instruction | None:
        """The last instruction but for the return."""
        return next((at for at in reversed(self.module) if at is not self.module.returned), None)

    def _behind(self, before: Instruction | None) -> list[Instruction]:
        """The instructions that follow one, or all, but for the return."""
        found = takewhile(lambda at: at is not before, reversed(self.module))
        return [at for at in found if at is not self.module.returned][::-1]

    def print(self) -> None:
        """Prints the module's program."""
        print(self)  # noqa: T201  # it is what it is for

    def __iter__(self) -> Iterator[instruction_ref]:
        return map(instruction_ref, self.module)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, module) and self.module is other.module

    def __hash__(self) -> int:
        return hash(self.module)

    def __repr__(self) -> str:
        return show(self.module.program)


def _marked(made: Instruction, debug_symbols: Iterable[str]) -> instruction_ref:
    """An instruction whose marks are these and no others."""
    made.origins = tuple(debug_symbols)
    return instruction_ref(made)


def _given(args: Sequence[instruction_ref]) -> list[Instruction]:
    return [each.instruction for each in args]


class program:
    """Modules of instructions, compiled for a target and run. ``program`` is the same in migx."""

    def __init__(self, made: Program | None = None) -> None:
        self.program = Program() if made is None else made

    def get_main_module(self) -> module:
        return module(self.program.main)

    def create_module(self, name: str) -> module:
        return module(self.program.create_module(name))

    def get_parameter_names(self) -> list[str]:
        return [*self.program.main.parameters, *map(PLACE.format, self._places())]

    def get_parameter_shapes(self) -> dict[str, shape]:
        """Those of the inputs; and, where results stay on a device, of where they may be put: of
        the parameters ``main:#output_0`` and so on, which need not be given.
        """
        parameters = self.program.main.parameters.items()
        places = {PLACE.format(i): each for i, each in self._places().items()}
        return {name: shape.of(at.shape) for name, at in parameters} | places

    def _places(self) -> dict[int, shape]:
        """The shapes of the results that may be put somewhere, by their numbers."""
        results = enumerate(self.get_output_shapes() if self._stays_there() else ())
        return {i: each for i, each in results if not each.dynamic()}

    def _stays_there(self) -> bool:
        """Whether results stay on the device that they are computed on."""
        made = self.program._compiled
        return made is not None and not getattr(made.context.target, "offload_copy", True)

    def get_output_shapes(self) -> list[shape]:
        return [shape.of(value.shape.as_standard()) for value in self._outputs()]

    def _outputs(self) -> tuple[Instruction, ...]:
        """What is returned; the last instruction where nothing is."""
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
        """Makes the program ready to run on a target.

        Without ``offload_copy`` arguments and results of ``gpu`` stay on the device; the others run
        in the host's memory either way. ``fast_math`` allows results that differ, and none do: what
        rounds f32 more is left to ``program.compile`` of migx, which takes it only if asked.
        ``exhaustive_tune`` measures on the device; ``CompatError`` where a target does not.
        ``compile_mode`` ``max`` does where it can; the others are one.
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
        """The results, there for what is enqueued to the stream afterwards. ``TargetError`` where
        the target always waits; ``CompatError`` where the name is of no stream.
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
        """The arguments as migx takes them, one element as a scalar where that is wanted; and where
        results are to be put, by their numbers.
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
        """The program itself, each value in front of the first that reads it, so that two that
        compute the same alike are equal.
        """
        revision = self.program.revision
        for each in self.program.modules.values():
            _sort(each)
        self.program.revision = revision  # what was compiled computes the same
        return self

    def clone(self) -> program:
        """A copy of the program as it was before it was compiled."""
        return program(self.program.copy())

    def to_py(self) -> str:
        """Python code that makes the program, as ``p``: its text, which is parsed. Literals of many
        elements that lie in no file are drawn by it, as by that of MIGraphX.
        """
        lines = "".join(f"    {line!r}\n" for line in str(self.whole()).splitlines(keepends=True))
        return (
            "import migx\nimport migx.compat.migraphx as migraphx\n\n"
            f"p = migraphx.program(migx.parse(\n{lines}, draw_missing=0))\n"
        )

    def write_netron_output(self, filename: str) -> None:
        """Writes the program as an ONNX file, which Netron shows and others run; ``OnnxError``
        where ONNX has no operator for what it does.
        """
        onnx.write(self.whole(), filename)

    def ensure_return(self) -> None:
        """Has the program return its last instruction, where it returns nothing."""
        if self.program.main.returned is None:
            self.program.main.add_return(*self._outputs())

    def whole(self) -> Program:
        """The program, or a copy that has a return where it has none."""
        if self.program.main.returned is not None:
            return self.program
        copied = self.clone()
        copied.ensure_return()
        return copied.program

    def print(self) -> None:
        """Prints the program's text."""
        print(self)  # noqa: T201  # it is what it is for

    def __eq__(self, other: object) -> bool:
        return isinstance(other, program) and self.program == other.program

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return str(self.program)


STREAMS = ("ihipStream_t", "CUstream_st")
PLACE = "main:#output_{}"
"""What the parameter is called that a result is put into."""


def _put(
    results: Sequence[Argument],
    places: Mapping[int, argument],
    target: Any,
    stream: int | None = None,
) -> list[argument]:
    """Results as arguments, copied to where they are to be put on the target's device. Constants
    and what runs on the host are not there yet.
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
    """A value as a parameter of a shape takes it; with ``copied``, arguments are the host's."""
    if hasattr(value, "__cuda_array_interface__") and not (copied and isinstance(value, argument)):
        return value
    given = argument(value).value
    scalar = wanted is not None and wanted.dims == () and given.shape.dims == (1,)
    if scalar and not given.elsewhere:
        return Argument.of(given.array.reshape(()))
    return given


def _sort(made: Module) -> None:
    """Brings the instructions of a module into the order in which its results ask for them; those
    that nothing asks for come last.
    """
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

"""What a backend author implements.

A target lists the passes it wants and makes an executable of the lowered program. The defaults are
those of a target that runs in host memory: such a backend defines only ``get_passes`` and
``make_executable``. An executable has ``run``; the protocols here, and ``migx.profile.Profiled``,
are what it may offer besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import (
    Any,
    ClassVar,
    Protocol,
    TypeAlias,
    TypedDict,
    Unpack,
    dataclass_transform,
    runtime_checkable,
)

import numpy as np

from migx.argument import Argument
from migx.errors import TargetError, UnknownName, there_are
from migx.events import EventLog
from migx.fields import Frozen, thaw
from migx.ir import Instruction
from migx.manager import Observer, Pass, Pipeline, listed
from migx.op import Array, freeze, know_fields, snake_case
from migx.pipeline import instance
from migx.program import Program
from migx.shape import TUPLE, Shape
from migx.text import noted

Seen: TypeAlias = Callable[[Instruction, Argument], object]
"""Called with each instruction of a traced run and its result."""
NO_SLOTS: Mapping[str, Argument] = MappingProxyType({})
ACTIVATIONS = ("float", "int8")
"""The types of activations that weights of four and eight bits may be multiplied by."""
MOST_THREADS = 1024
"""The most threads a run may be given."""


class Asked(TypedDict, total=False):
    """The fields of ``CompileOptions``, as keywords of functions that pass them on."""

    passes: Pipeline | str | None
    observers: Sequence[Observer]
    num_threads: int | None
    activations: str
    fast_math: bool
    log: EventLog | None


@dataclass(frozen=True)
class CompileOptions:
    """The options of a compilation. ``passes`` replaces the target's own list; ``observers`` watch
    it run, and ``log`` records its rewrites. ``num_threads`` is how many threads a run may use,
    None for the target's choice; ``ref`` uses one.

    ``activations`` is the type of activations in products with weights of four and eight bits:
    "float", unchanged, or "int8", rounded to 8 bits in blocks, which is faster on ``cpu``;
    ``TargetError`` for anything else, or if a target has no such products.

    ``fast_math`` allows a target to round f32 more than the operations say, where that is faster:
    ``gpu`` rounds factors to tf32, ``cpu`` computes convolutions of 3 x 3 by fewer multiplications.
    Other targets ignore it.
    """

    passes: Pipeline | str | None = None
    observers: Sequence[Observer] = field(default=())
    num_threads: int | None = None
    activations: str = ACTIVATIONS[0]
    fast_math: bool = False
    log: EventLog | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "observers", listed(self.observers))
        threads = self.num_threads
        if threads is not None and not (type(threads) is int and 1 <= threads <= MOST_THREADS):
            raise TargetError(
                f"num_threads is {threads!r}; it must be a whole number from 1 to {MOST_THREADS}"
            )
        if self.activations not in ACTIVATIONS:
            known = " or ".join(map(repr, ACTIVATIONS))
            raise TargetError(f"activations is {known}, not {self.activations!r}")
        if self.passes is not None and self.rounds_activations:
            raise TargetError(
                "activations is for the target's own passes: put quantize_activations after "
                "fuse_int4 in those given"
            )
        if type(self.fast_math) is not bool:
            raise TargetError(f"fast_math is True or False, not {self.fast_math!r}")
        if self.passes is not None and self.fast_math:
            raise TargetError(
                "fast_math is for the target's own passes: give it to the pass that lowers in "
                "those given, gpu::lower{fast_math=true}, or for cpu put rewrite_winograd after "
                "hoist_weights"
            )

    @property
    def rounds_activations(self) -> bool:
        """Whether activations are quantised to 8 bits in products with weights of 4 or 8 bits."""
        return self.activations == "int8"

    def plain(self) -> dict[str, Any]:
        """The options as JSON values, with passes as text and without observers."""
        passes = None if self.passes is None else str(Pipeline.of(self.passes))
        return {
            "passes": passes,
            "num_threads": self.num_threads,
            "activations": self.activations,
            "fast_math": self.fast_math,
        }


def asked_for(**options: Unpack[Asked]) -> CompileOptions:
    """The options given, checked; ``UnknownName`` lists the options that exist."""
    for name in options:
        if name not in (known := CompileOptions.__dataclass_fields__):
            raise UnknownName(f"compile has no option {name!r}; {there_are(name, known)}")
    return CompileOptions(**options)


@dataclass
class Context:
    """What operations get from their target when they are finalized and evaluated, with the options
    of the compilation.

    ``saved`` is what an executable of this program has saved in a file by its method ``save_code``,
    so that it need not be made again.
    """

    target: Target
    options: CompileOptions = field(default_factory=CompileOptions)
    saved: Mapping[str, bytes] = field(default_factory=dict)


class Executable(Protocol):
    """A program made ready to run. Frozen: runs may overlap in many threads."""

    def run(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument] = NO_SLOTS
    ) -> list[Argument]:
        """The results for arguments that have been checked against the parameters. ``slots`` has
        the value of each ``@slot``, placed by ``Target.copy_to``; it changes between runs if
        weights are swapped.
        """
        ...


@runtime_checkable
class FallsBack(Protocol):
    """An executable that lists what it leaves to the host. For others, it is what their target does
    not support.
    """

    def fallbacks(self) -> list[Instruction]:
        """The instructions that run on the host because they have no kernel."""
        ...


@runtime_checkable
class ReadsPacked(Protocol):
    """An executable whose kernels read weights in the formats that its target names."""

    @property
    def absorbed(self) -> frozenset[Instruction]:
        """The ``unpack_weight`` instructions that no run executes: kernels read their inputs."""
        ...


@runtime_checkable
class Saves(Protocol):
    """An executable with data worth saving in a file with its program."""

    def save_code(self) -> dict[str, bytes]:
        """Bytes by name, passed to a loaded program as ``Context.saved``."""
        ...


PreparedRun: TypeAlias = Callable[[Sequence[Array], Mapping[str, Argument]], list[Array | Argument]]
"""A run for inputs of known shapes: from their arrays, one for each parameter, and the slots to the
outputs: arrays that are the caller's, and what is none as arguments."""


@runtime_checkable
class Prepares(Protocol):
    """An executable that prepares runs, so that calls of small programs cost less."""

    def prepared(self, shapes: Sequence[Shape]) -> PreparedRun | None:
        """A run for inputs of these shapes; None if ``run`` is to be called."""
        ...


@runtime_checkable
class Traced(Protocol):
    """An executable that can show each result as it is computed."""

    def trace(
        self, arguments: Mapping[str, Argument], seen: Seen, slots: Mapping[str, Argument]
    ) -> list[Argument]:
        """Runs once, and calls ``seen(instruction, result)`` for each instruction of any module;
        those of a body come before the instruction that has it.
        """
        ...


@runtime_checkable
class Asynchronous(Protocol):
    """An executable with asynchronous runs."""

    def enqueue(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument], stream: Any
    ) -> list[Argument]:
        """Results ready for later work on the caller's stream, or the target's own if None."""
        ...


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True, eq=False, repr=False)
class Target(Frozen):
    """Base class of targets; a target's name is its class's in snake case, and that of its file or
    folder. A subclass is a frozen dataclass of its options, unless it has its own ``__init__``.
    """

    name: ClassVar[str]
    packs_blocks: ClassVar[bool] = False
    """Whether it also names formats for blocks of constants that an index picks."""

    def __init_subclass__(cls) -> None:
        if not thaw(cls):
            freeze(cls, "target ")
        cls.name = snake_case(cls.__name__)

    def get_passes(
        self, context: Context, options: CompileOptions
    ) -> Pipeline | str | Sequence[Pass | str]:
        """The passes that lower a program for this target: a pipeline, its text, or a list."""
        raise TargetError(
            f"target {self.name} needs get_passes(context, options), a list of passes"
        )

    def get_lower_literals_passes(self, context: Context) -> Pipeline:
        """The passes that lower literals added to an already lowered program."""
        return Pipeline()

    def get_context(self) -> Context:
        """A new context for one program."""
        return Context(self)

    def compiling(self) -> AbstractContextManager[object]:
        """A context entered before the passes run, and left when the executable is made or there
        is an error; a target may use it to compile kernels while passes still run.
        """
        return nullcontext()

    def make_executable(self, program: Program, context: Context) -> Executable:
        """An executable of a program that has been lowered and finalized."""
        raise TargetError(
            f"target {self.name} needs make_executable(program, context), which returns an object "
            "with run(arguments, slots)"
        )

    def supports(self, instruction: Instruction) -> bool:
        """Whether the target runs an instruction itself; others run on the host, as on ``ref``.
        ``dissolve`` asks it for fused instructions, and the count of fallbacks for every
        instruction but views.
        """
        return True

    def for_architectures(self, names: tuple[str, ...]) -> Target:
        """This target, compiling for other architectures; ``TargetError`` if it has none."""
        raise TargetError(f"target {self.name} compiles for the machine it runs on, and no other")

    def accepts(self, saved: Mapping[str, bytes]) -> bool:
        """Whether the saved data of an executable can be used here; if not, it is made again."""
        return True

    def allocate(self, shape: Shape) -> Argument:
        """Uninitialised memory of the target for a value with static dims."""
        return Argument(shape, np.empty([int(d) for d in shape.dims], shape.dtype.numpy))

    def copy_to(self, argument: Argument) -> Argument:
        """A host value in the target's memory."""
        return argument

    def copy_from(self, argument: Argument) -> Argument:
        """A value of the target in host memory."""
        return argument

    def taken(self, inputs: Any) -> Any:
        """A caller's inputs, with other libraries' values in the target's memory as arguments."""
        return inputs

    def preferred_weight_format(self, instruction: Instruction, index: int) -> str | None:
        """The format (``hwio``, ``ABcd16a4b``, ...; see ``migx.ops.formats``) in which a constant
        input is best read; None leaves it as it is. An input may be views of a constant
        (``migx.op.traits(...).view``): the format is for the axes of the constant. The executable
        then finds ``unpack_weight`` in its place, and reads its input, or runs it like any
        operation. What is unpacked from sub-byte storage stays as it is. With ``packs_blocks`` an
        input may also be one block of a constant, picked by a ``gather`` with one index: the format
        is for the block, each block is packed so, and the ``gather`` reads ``unpack_weight``.
        """
        return None

    def transform_weight(self, argument: Argument, layout: str) -> Argument:
        """A weight in a format named by ``preferred_weight_format``. Override it to produce the
        same bytes faster.
        """
        from migx.ops.formats import pack

        return pack(argument, layout)

    def __repr__(self) -> str:
        return f"<target {self.name}>"


know_fields(Target, "target ")


def get_target(given: Target | str | Any) -> Target:
    """The target of a name, optionally with options, ``name{option=value}`` as for a pass; or the
    target itself. ``UnknownName`` and ``ParseError`` list what exists.
    """
    if not isinstance(given, str):
        if isinstance(given, type):
            raise TargetError(f"{given.__name__} is a class: give a target of it, or its name")
        if not isinstance(given, Target):
            raise TargetError(f"{given!r} is no target: give one, or its name, such as 'cpu'")
        return given
    made: Target = instance("targets", given)
    return made


def expect_readable(target: Target, method: str, value: Argument) -> None:
    """Raises ``TargetError`` unless the host can read a value returned by a method of a target."""
    if not isinstance(value, Argument):
        gives = type(value).__name__
        raise TargetError(f"target {target.name}: {method} must return an Argument, not a {gives}")
    for part in value.parts if value.shape.dtype is TUPLE else ():
        expect_readable(target, method, part)
    if value.shape.dtype.is_tensor and not value.elsewhere:
        data = value.data
        if not isinstance(data, np.ndarray | np.generic):
            raise TargetError(
                f"target {target.name}: {method} returns a {value.shape.text} that holds a "
                f"{type(data).__name__}, not an array for the host; a value in the target's memory "
                "needs a subclass of Argument with elsewhere = True and data that copies it to the "
                "host"
            )


def placed(target: Target, value: Argument) -> Argument:
    """A host value in the memory that a target wants it in."""
    made = target.copy_to(value)
    expect_readable(target, "copy_to", made)
    return made


def context_for(target: Target) -> Context:
    """A new context of a target; ``TargetError`` if the target returns something else."""
    made: object = target.get_context()
    if not isinstance(made, Context):
        raise TargetError(f"target {target.name}: get_context returns a Context, not {made!r}")
    return made


def supported(target: Target, at: Instruction) -> bool:
    """Whether a target supports an instruction; errors get a note with the instruction."""
    with noted(f"supports of target {target.name}, asked of", at):
        return target.supports(at)


def passes_for(
    target: Target, context: Context | None = None, asked: CompileOptions | None = None
) -> Pipeline:
    """The requested passes, or the target's own. ``TargetError`` if its list is no pipeline."""
    asked = CompileOptions() if asked is None else asked
    if asked.passes is not None:
        return Pipeline.of(asked.passes)
    listed = target.get_passes(context_for(target) if context is None else context, asked)
    try:
        return Pipeline.of(listed)
    except TypeError as error:
        raise TargetError(
            f"target {target.name}: get_passes gives a pipeline, its text or a list: {error}"
        ) from error

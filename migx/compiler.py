"""Compile and run: the flow from a program to an executable and from arrays to arrays."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Unpack

from numpy.typing import ArrayLike, NDArray

from migx.argument import Argument
from migx.base import disk_cache
from migx.base.collector import paused
from migx.base.mapping import MappedFile
from migx.binding import Inputs, sizes_told
from migx.errors import EvaluationError, IRError, TargetError
from migx.ir import Instruction
from migx.manager import PassManager
from migx.meaning import is_like
from migx.observers import CrashFile
from migx.op import Array, traits
from migx.ops.builtin import Literal, Param, Slot
from migx.ops.maps import Rows
from migx.planning import lies_in
from migx.program import Program
from migx.shape import MAP, OPTIONAL, SEQUENCE, TUPLE, Shape
from migx.target import (
    NO_SLOTS,
    Asked,
    Asynchronous,
    Context,
    Executable,
    FallsBack,
    PreparedRun,
    Prepares,
    Seen,
    Target,
    Traced,
    asked_for,
    context_for,
    expect_readable,
    get_target,
    passes_for,
    supported,
)
from migx.text import noted
from migx.verify import verify
from migx.weights import DEBUG
from migx.weights.epochs import NOTHING, LiveWeights, files_of
from migx.weights.hoisting import hoist_sources
from migx.weights.layouts import pack_weights
from migx.weights.live import committing, holding, live_weights
from migx.weights.recipe import Arguments


@dataclass(repr=False)
class Compiled:
    """The value of ``Program.compiled``: a ``program`` lowered by a target's passes, with its
    weights and the options of the compilation, ``context.options``. ``revision`` is that of the
    program it was compiled from. ``executable`` is made at first use.
    """

    program: Program
    context: Context
    weights: LiveWeights
    revision: int
    _has_run: bool = field(default=False, init=False)
    _made_at: int = field(default=0, init=False)
    _executable: Executable | None = field(default=None, init=False)
    _making: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __repr__(self) -> str:
        return f"<Compiled for {self.target}: {self.program!r}>"

    @property
    def target(self) -> Target:
        """The target it is compiled for."""
        return self.context.target

    @property
    def executable(self) -> Executable:
        """The target's executable; making it may finalize operations first. If several threads ask
        first, one makes it; threads of other programs do not wait.
        """
        if self._executable is None:
            with self._making:
                if self._executable is None:
                    finalize(self.program, self.context)
                    made = self.target.make_executable(self.program, self.context)
                    expect_executable(self.target, made)
                    self._made_at, self._executable = self.program.revision, made
        if self.program.revision != self._made_at:
            raise IRError(
                "the compiled program has been changed since it was finalized: change a copy, and "
                "call copy.finalize(target)"
            )
        return self._executable

    @property
    def nbytes(self) -> int:
        """The bytes of its literals that are in memory, not mapped from a file."""
        held = [at.op.value for at in self.program.literals if isinstance(at.op, Literal)]
        return sum(value.nbytes for value in held if value.source is None)

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.program.main, self.weights.names, self._prepare)

    def _prepare(self, shapes: Sequence[Shape]) -> PreparedRun | None:
        """The executable's own run for inputs of these shapes, if it has one, and no output is to
        be copied.
        """
        if self._shared or not isinstance(self.executable, Prepares):
            return None
        return self.executable.prepared(shapes)

    @cached_property
    def files(self) -> tuple[MappedFile, ...]:
        """The files that its literals are mapped from."""
        weights = self.program.weights
        literals = [at.op for at in self.program.literals if at.module is not weights]
        return files_of(op.value for op in literals if isinstance(op, Literal))

    def fallbacks(self) -> list[Instruction]:
        """The instructions that run on the host for lack of a kernel: those its executable lists,
        or else those that its target does not support, except views, which need none.
        """
        if isinstance(self.executable, FallsBack):
            return self.executable.fallbacks()
        supports = partial(supported, self.target)
        asked = (at for m in self.program.modules.values() if not m.bypass for at in m)
        work = (at for at in asked if not at.name.startswith("@") and traits(at.op).view is None)
        return [at for at in work if not supports(at)]

    def results(self, arguments: Mapping[str, Argument]) -> list[Argument]:
        """The outputs for checked arguments, with the current weights. ``DataError`` if a file in
        use has been written to.
        """
        for file in self.files:
            file.check()
        with self.weights.reading() as slots:
            results = self.executable.run(arguments, slots)
        if not self._has_run or DEBUG:
            self._expect_outputs(results, arguments)
            self._has_run = True
        return results

    def trace(self, arguments: Mapping[str, Argument], seen: Seen) -> list[Argument]:
        """The outputs for checked arguments; ``seen`` is called with each instruction and its
        result. ``TargetError`` if the target shows only outputs.
        """
        if not isinstance(self.executable, Traced):
            raise TargetError(
                f"target {self.target.name} does not show each instruction's result: its "
                "executable has no trace(arguments, seen, slots); that of ref has, after any passes"
            )
        with self.weights.reading() as slots:
            return self.executable.trace(arguments, seen, slots)

    def _expect_outputs(self, results: Any, arguments: Mapping[str, Argument]) -> None:
        """Raises ``TargetError`` unless there is a result for each output that fits its shape and
        that the host can read. Checked after the first run, which shows what the target returns,
        and in debug mode after each.
        """
        main = self.program.main
        sizes = sizes_told(main, [arguments[name] for name in main.parameters])
        wanted = [at.shape.substitute(sizes) for at in main.outputs]
        listed = isinstance(results, list | tuple)
        given = results if listed else [results]
        got = [each.shape if isinstance(each, Argument) else None for each in given]
        pairs = zip(got, wanted, strict=False)
        whole = listed and len(got) == len(wanted)
        if whole and all(shape is not None and is_like(shape, each) for shape, each in pairs):
            for each in given:
                expect_readable(self.target, "run", each)
            return
        said = [type(r).__name__ if s is None else s.text for r, s in zip(given, got, strict=True)]
        raise TargetError(
            f"target {self.target.name}: run must return a list with an Argument for each output, "
            f"{', '.join(s.text for s in wanted)}, not {', '.join(said) or 'none'}"
        )

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Argument]:
        """A caller's inputs as arguments; those in memory that the target reads stay there."""
        return self._inputs.arguments(self.target.taken(inputs))

    @cached_property
    def _shared(self) -> frozenset[int]:
        """The outputs that share memory with an input, a weight, or an earlier output."""
        roots = [lies_in(at) for at in self.program.main.outputs]
        held = [type(at.op) in (Param, Literal, Slot) for at, _ in roots]
        return frozenset(i for i, root in enumerate(roots) if held[i] or root in roots[:i])

    def eval(self, inputs: Mapping[str, ArrayLike | Argument]) -> list[Any]:
        """The outputs as arrays; packed ones as arguments, tuples as tuples, sequences as lists,
        maps as dicts, an optional as its content or None.

        They belong to the caller, who may keep and write them: a value that shares memory with an
        input, a weight or another output is copied.
        """
        given = self.target.taken(inputs)
        values, known = self._inputs.read(given)
        if known is not None and known.run is not None and self._has_run:
            return self._run_prepared(known.run, values)
        results, shared = self.results(self._inputs.checked(given, values, known)), self._shared
        try:
            return [given_back(result, i in shared) for i, result in enumerate(results)]
        except MemoryError as error:
            raise EvaluationError(f"there is no memory for the outputs: {error}") from error

    def _run_prepared(self, run: PreparedRun, arrays: Sequence[Array]) -> list[Any]:
        """The outputs of a prepared run."""
        for file in self.files:
            file.check()
        self.executable  # noqa: B018  # still that of this program
        with self.weights.reading() as slots:
            results = run(arrays, slots)
        if DEBUG:
            given = dict(zip(self.program.main.parameters, map(Argument.of, arrays), strict=True))
            self._expect_outputs([*map(Argument.of, results)], given)
        return [given_back(each) if isinstance(each, Argument) else each for each in results]

    def run_async(self, inputs: Mapping[str, Any], stream: Any = None) -> list[Argument]:
        """The outputs on the device, without waiting for them: work enqueued afterwards on
        ``stream`` sees them. The stream is the caller's (CuPy's, torch's, one with
        ``__cuda_stream__``, or its handle as a number), or by default the device's own. Outputs
        support DLPack and ``__cuda_array_interface__``. ``TargetError`` if the target always waits.
        """
        if (enqueue := self._enqueue) is None:
            raise TargetError(
                f"target {self.target.name} has no streams: its runs are done when they return; "
                "call eval"
            )
        arguments = self.arguments(inputs)
        for file in self.files:
            file.check()
        with self.weights.reading() as slots:
            return enqueue(arguments, slots, stream)

    @cached_property
    def _enqueue(self) -> Callable[..., list[Argument]] | None:
        """The executable's asynchronous run; None if it always waits."""
        return self.executable.enqueue if isinstance(self.executable, Asynchronous) else None


@paused()
def compiled(program: Program, target: Target | str, **options: Unpack[Asked]) -> Compiled:
    """A copy of the program with its current weights, verified, lowered and finalized."""
    asked = asked_for(**options)
    disk_cache.limit()  # read here, so that an error in it is not reported as a pass's
    chosen = get_target(target)
    context = context_for(chosen)
    context.options = asked
    with committing(program):
        live = live_weights(program)
        lowered = holding(program, live)
    verify(lowered)
    passes = passes_for(chosen, context, asked)
    rounds = any(each.name == "quantize_activations" for each in passes.passes())
    if asked.rounds_activations and not rounds:
        raise TargetError(f"target {chosen.name} supports float activations only")
    with chosen.compiling():
        PassManager(lowered, (*asked.observers, CrashFile()), asked.log).run(passes)
        return ready(assembled(program, lowered, context, live))


def assembled(
    program: Program, lowered: Program, context: Context, live: Arguments = NOTHING
) -> Compiled:
    """A compiled form of a lowered program, which is copied: constants are put in the target's
    formats, weights in slots. Weights in ``live`` have the values of updates. Slots are not
    computed yet.
    """
    if not context.saved:  # otherwise it is the program that the saved code was made for
        pack_weights(lowered, context)
    hoist_sources(lowered)
    weights = LiveWeights(lowered.weights, context, program, live)
    return Compiled(lowered, context, weights, program.revision)


def ready(made: Compiled) -> Compiled:
    """Makes the executable, and computes the slots whose weights have values."""
    made.files  # noqa: B018  # their state now
    made.executable  # noqa: B018  # so that the first run does not wait for it
    made.weights.start()
    return made


def finalized(program: Program, target: Target | str) -> Compiled:
    """The executable form of a lowered program: of its compiled form, or of the program itself if
    it has not been compiled for this target and so is lowered already.
    """
    chosen = get_target(target)
    if program._compiled is not None and program.compiled.context.target.name == chosen.name:
        return ready(program.compiled)
    return compiled(program, chosen, passes="")


def expect_executable(target: Target, made: Any) -> None:
    """Raises ``TargetError`` unless an executable has a ``run`` that takes arguments and slots."""
    try:
        with suppress(ValueError):  # extension code may have no signature
            inspect.signature(made.run).bind({}, NO_SLOTS)
    except (AttributeError, TypeError) as error:
        raise TargetError(
            f"target {target.name}: make_executable must return an object with "
            f"run(arguments, slots), not {type(made).__name__}: {error}"
        ) from error


def finalize(program: Program, context: Context) -> None:
    """Calls ``finalize`` of every operation that has it, submodules first."""
    for module in program.submodules(program.main):
        for at in module:
            if hasattr(at.op, "finalize"):
                with noted(f"finalize, for target {context.target.name}, of", at):
                    at.op.finalize(context)


def _repeats(array: NDArray[Any]) -> bool:
    return any(step == 0 and n > 1 for step, n in zip(array.strides, array.shape, strict=True))


def given_back(result: Argument, shared: bool = False) -> Any:
    """A result for the caller: copied if ``shared``, read-only, or with overlapping elements."""
    if result.shape.dtype.is_tensor:
        array = result.array
        if shared or not array.flags.writeable or (0 in array.strides and _repeats(array)):
            array = array.copy()
        if not result.shape.dtype.is_packed:
            return array
        return result if array is result.array else Argument.packed(result.shape, array)
    if result.shape.dtype is TUPLE:
        return tuple(given_back(part, shared) for part in result.parts)
    if isinstance(result.data, Rows):
        return result.data.dicts()
    if result.shape.dtype is SEQUENCE:  # it may hold arrays of the inputs
        return [given_back(part, shared=True) for part in result.parts]
    if result.shape.dtype is OPTIONAL:
        return given_back(result.parts[0], shared=True) if result.data else None
    if result.shape.dtype is MAP:
        keys, values = (part.tolist() for part in result.parts)
        return dict(zip(keys, values, strict=True))
    return result

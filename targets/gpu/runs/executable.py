"""A program prepared to run on a GPU, and its runs.

A run takes the plan for its sizes and an arena. Kernels between two steps of the host are enqueued
together, and from the second time on replayed as one graph if the device has graphs and all
addresses are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from migx.argument import Argument
from migx.base.recent import Recent
from migx.binding import Sizes, sizes_told
from migx.dims.extents import BySizes
from migx.errors import TargetError
from migx.ir import Instruction, Module
from migx.ops.builtin import Param, Undefined
from migx.ops.dims import DimLiteral
from migx.planning import is_alias, is_memory, pieces, with_known
from migx.profile import Cost, Profile
from migx.program import Program
from migx.shape import Shape
from migx.sizes import read_symbols, symbols_within
from migx.target import NO_SLOTS, Context
from migx.targets.gpu.architectures import peaks
from migx.targets.gpu.code.compiling import Binary, Request, binaries
from migx.targets.gpu.devices.device import Buffer, Device, handle_of
from migx.targets.gpu.devices.values import DeviceArgument, placed
from migx.targets.gpu.kernels import kernel_for
from migx.targets.gpu.operations import CodeObject, CopyFrom, Counted, DeviceLiteral
from migx.targets.gpu.runs.places import Places
from migx.targets.gpu.runs.plan import Form, Plan
from migx.verify import captures, captures_of

if TYPE_CHECKING:
    from migx.targets.gpu import Gpu


NO_WORK = (CopyFrom, Counted, DimLiteral, Undefined)
"""Operations that need no kernel, besides those on values that lie on the device."""


PLANS = 16
"""The cached sets of sizes, and plans for them; the oldest is evicted first."""


class Piece:
    """Some instructions of a module, all of whose sizes are known when they begin to run.

    ``late`` are those after them with sizes that only their results determine. Arenas not in use
    are kept here, by the stream to which their memory belongs.
    """

    def __init__(
        self, places: Places, instructions: Sequence[Instruction], late: Sequence[Instruction]
    ) -> None:
        self.places, self.instructions, self.late = places, instructions, late
        self.kept: list[Instruction] = []
        self.symbols = sorted({n for at in instructions for n in _symbols(at)})
        self.plans = BySizes(self.symbols, lambda sizes: Plan(self._form, dict(sizes)), PLANS)
        self._idle: dict[int, list[Buffer]] = {}

    @cached_property
    def _form(self) -> Form:
        """The form that all plans share, made with the first."""
        return Form(self.instructions, self.places, self.kept)

    def roomy(self, nbytes: int) -> int:
        """How much memory to allocate for so many bytes: if sizes may change, up to an eighth more,
        so that a slightly larger run fits next time.
        """
        step = 1 << max(0, nbytes.bit_length() - 4)
        return -(-nbytes // step) * step if self.symbols else nbytes

    @contextmanager
    def arena(
        self, nbytes: int, stream: int, allocate: Callable[[int], Buffer]
    ) -> Iterator[Buffer]:
        """An arena for a run on a stream: an idle one, if it is large enough."""
        idle = self._idle.setdefault(stream, [])
        try:
            found: Buffer | None = idle.pop()
        except IndexError:
            found = None
        if found is None or found.nbytes < nbytes:
            found = None  # freed before the next is allocated
            found = allocate(self.roomy(nbytes))
        try:
            yield found
        finally:
            idle.append(found)

    def forget_idle(self) -> bool:
        """Frees the idle arenas; says whether there were any."""
        given_back = [self._idle.pop(stream) for stream in list(self._idle)]
        return any(given_back)


def _symbols(at: Instruction) -> frozenset[str]:
    """The symbols that an instruction reads, and those in the module of a kernel."""
    held = at.modules if isinstance(at.op, CodeObject) else ()
    return read_symbols(at).union(*map(symbols_within, held))


class GpuExecutable:
    """A program run by its compiled kernels."""

    def __init__(self, program: Program, context: Context, target: Gpu) -> None:
        self.program, self.context, self.target = program, context, target
        self.device: Device | None = target.device
        self.pieces: dict[Module, list[Piece]] = {}
        self.places: dict[Module, Places] = {}
        self.functions: dict[str, Any] = {}
        self.kernels: dict[Instruction, Any] = {}
        self.literals: dict[Instruction, DeviceArgument] = {}
        self._sizes: Recent[tuple[Any, ...], tuple[Sizes, list[Shape | None]]] = Recent(PLANS)
        self._prepare(program.main, set(), set())
        self._compile()

    # Before the first run.

    def _prepare(self, module: Module, known: set[str], around: set[Instruction]) -> None:
        """Cuts a module, and those its instructions run, into pieces."""
        captured = {v for v in captures(module) if v in around}
        inputs = {at for at in module if type(at.op) is Param and self._stays(module, at)}
        places = self.places[module] = Places(module, captured | inputs)
        cut = [Piece(places, *part) for part in pieces(module, known)]
        self.pieces[module] = cut
        read_later = set(module.outputs)
        for piece in reversed(cut):
            for at in piece.late:
                read_later |= {*at.inputs, *captures_of(at)}
            piece.kept = [v for v in piece.instructions if v in read_later]
            for at in piece.instructions:
                read_later |= {*at.inputs, *captures_of(at)}
        for at, told in with_known(module, known):
            for inner in () if isinstance(at.op, CodeObject) else at.modules:
                if inner not in self.pieces:
                    self._prepare(inner, set(told), set(places.roots))

    def _stays(self, module: Module, at: Instruction) -> bool:
        """Whether a parameter's value is on the device when a module begins."""
        given_there = module is self.program.main and not self.target.offload_copy
        return given_there and is_memory(at.shape)

    @property
    def _instructions(self) -> Iterator[Instruction]:
        return (at for module in self.pieces for at in module)

    def _requests(self, arch: str) -> dict[Instruction, Request]:
        return {
            at: Request.of(at.op, arch)
            for at in self._instructions
            if isinstance(at.op, CodeObject)
        }

    def _compile(self) -> None:
        """Compiles every kernel for each wanted architecture, and loads those of the device's."""
        own = self.device.arch if self.device is not None else ""
        archs = dict.fromkeys([*self.target.archs, *([own] if own else [])])
        saved = {key: Binary.from_bytes(code) for key, code in self.context.saved.items()}
        wanted = {arch: self._requests(arch) for arch in archs}
        every = [request for found in wanted.values() for request in found.values()]
        self.binaries = saved | binaries([r for r in every if r.key not in saved])
        if self.device is not None:
            self._load(self.device, wanted.get(own) or self._requests(own))

    def _load(self, device: Device, requests: Mapping[Instruction, Request]) -> None:
        """Loads kernels to the device, equal ones once, and literals."""
        for at, request in requests.items():
            key = request.key
            if key not in self.functions:
                self.functions[key] = device.function(request, self.binaries.get(key))
            self.kernels[at] = self.functions[key]
        for at in self._instructions:
            if isinstance(at.op, DeviceLiteral):
                literal = DeviceArgument.of_host(at.op.value, device)
                assert isinstance(literal, DeviceArgument)
                self.literals[at] = literal

    def save_code(self) -> dict[str, bytes]:
        """The binaries, to be saved with the program."""
        return {key: binary.to_bytes() for key, binary in self.binaries.items()}

    def fallbacks(self) -> list[Instruction]:
        """The instructions that run on the host because they have no kernel; not control flow,
        which runs modules.
        """
        found = []
        for module, places in self.places.items():
            for at in [] if module.bypass else module:
                known = isinstance(at.op, NO_WORK) or at in places.roots or is_alias(at)
                runs = any(not inner.bypass for inner in at.modules)
                needed = places.host_takes_part(at) and not known and not runs
                if needed and kernel_for(at) is None:
                    found.append(at)
        return found

    # Runs.

    def run(
        self,
        arguments: Mapping[str, Argument],
        slots: Mapping[str, Argument] = NO_SLOTS,
        **how: Any,
    ) -> list[Argument]:
        """The results, on host or device, for arguments that have been checked against the
        parameters; ``how`` is given to the ``Run``.
        """
        from migx.targets.gpu.runs.running import Run

        device, main = self._device, self.program.main
        key = tuple([value.shape for value in arguments.values()])
        known = self._sizes.get(key)
        if known is None:
            known = self._sizes[key] = self._sizes_and_places([*arguments.values()])
        sizes, shapes = known
        given = [
            value if shape is None else placed(name, value, shape, device)
            for (name, value), shape in zip(arguments.items(), shapes, strict=True)
        ]
        results = Run(self, slots, **how).module(main, given, {}, sizes)
        offload = self.target.offload_copy
        return [self.target.copy_from(v) for v in results] if offload else results

    def enqueue(
        self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument], stream: Any = None
    ) -> list[Argument]:
        """The results on the device, for whatever comes after them on a stream of the caller's.
        Nothing waits for them, except a step without a kernel, which waits for its operands.
        """
        if self.target.offload_copy:
            raise TargetError(
                "this program copies its results to the host, which waits for them: compile it for "
                "Gpu(offload_copy=False) to have them on the device"
            )
        device = self._device
        with device.on(device.stream if stream is None else handle_of(stream)):
            results = self.run(arguments, slots, waits=False)
            return [DeviceArgument.of_host(value, device) for value in results]

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once, kernel by kernel, and reports the cost of each."""
        costs: list[Cost] = []
        self.run(arguments, slots, watch=costs)
        plans = [plan for cut in self.pieces.values() for p in cut for plan in p.plans.values()]
        weights = sum(literal.nbytes for literal in self.literals.values())
        weights += sum(value.nbytes for value in slots.values())
        arena = sum(plan.arena_bytes for plan in plans)
        return Profile(tuple(costs), arena, weights, *peaks(self._device.arch))

    def forget_idle(self) -> bool:
        """Frees the idle arenas; says whether there were any."""
        given_back = [piece.forget_idle() for cut in self.pieces.values() for piece in cut]
        return any(given_back)

    @property
    def _device(self) -> Device:
        """The device; raises ``TargetError`` if there is none."""
        if self.device is None:
            archs = dict.fromkeys(binary.arch for binary in self.binaries.values())
            raise TargetError(
                f"this program is compiled for {' and '.join(archs)}; {self.target.missing}: save "
                "it (migx.save), and load it where there is one"
            )
        return self.device

    def _sizes_and_places(self, arguments: Sequence[Argument]) -> tuple[Sizes, list[Shape | None]]:
        """The sizes that arguments determine, and the layout on the device of those read there."""
        main = self.program.main
        sizes, parameters = sizes_told(main, arguments), main.parameters.values()
        return sizes, [p.shape.bind(sizes) if self._stays(main, p) else None for p in parameters]

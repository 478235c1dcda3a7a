"""The cost of a run, instruction by instruction, as ``migx perf`` shows it; and the work of an
instruction, known from its shapes without a run.

An executable that can measure itself has ``profile(arguments, slots)``, which runs the program once
and returns a ``Profile``. One that has ``trace`` instead is timed by when each result arrives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from migx.argument import Argument
from migx.binding import sizes_told
from migx.dim import Extent, evaluate, minimum, product
from migx.errors import DimError, TargetError
from migx.ir import Instruction
from migx.op import traits
from migx.ops.fused import Fused, Group
from migx.ops.indexing import Gather, GatherElements, Gathernd
from migx.ops.linear import Convolution, ConvolutionBackwards, Dot, QuantConvolution, QuantDot
from migx.ops.pooling import Pooling
from migx.ops.rnn import GRU, LSTM, RNN
from migx.ops.vision import DeformableConvolution
from migx.planning import is_memory
from migx.shape import Shape
from migx.target import Traced, supported

if TYPE_CHECKING:
    from migx.compiler import Compiled
    from migx.program import Program


@dataclass(frozen=True)
class Cost:
    """One instruction in one run: its kernel, "" if it ran on the host; its own time in seconds,
    its arithmetic, and the bytes of its operands.
    """

    at: Instruction
    kernel: str
    seconds: float
    flops: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Profile:
    """One run: its costs in order, the bytes of its workspace and of the weights it read, and the
    machine's peaks per second: operations on f32, and bytes moved. 0 where unknown.
    """

    costs: tuple[Cost, ...]
    arena: int = 0
    weights: int = 0
    peak_flops: float = 0.0
    peak_bytes: float = 0.0


@runtime_checkable
class Profiled(Protocol):
    """An executable that can measure the costs of its runs."""

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once."""
        ...


def can_tell(made: Compiled) -> bool:
    """Whether the costs of a compiled program's runs can be measured."""
    return isinstance(made.executable, (Profiled, Traced))


def measured(made: Compiled, arguments: Mapping[str, Argument], runs: int = 1) -> Profile:
    """The costs of the fastest of several runs after the first, on checked arguments.

    ``TargetError`` if the target can neither profile nor trace.
    """
    executable = made.executable
    if isinstance(executable, Profiled):
        profile = executable.profile
    elif isinstance(executable, Traced):
        profile = partial(_traced, made, executable)
    else:
        raise TargetError(f"target {made.context.target.name} cannot measure its runs")
    made.results(arguments)
    with made.weights.reading() as slots:
        found = [profile(arguments, slots) for _ in range(runs)]
    return min(found, key=lambda profile: sum(cost.seconds for cost in profile.costs))


def _traced(
    made: Compiled,
    executable: Traced,
    arguments: Mapping[str, Argument],
    slots: Mapping[str, Argument],
) -> Profile:
    """A traced run: an instruction's time is that since the previous result."""
    main, target, costs = made.program.main, made.context.target, list[Cost]()
    sizes = sizes_told(main, [arguments[name] for name in main.parameters])
    last = time.perf_counter()

    def seen(at: Instruction, result: Argument) -> None:
        nonlocal last
        took = time.perf_counter() - last
        if not at.op.name.startswith("@"):
            own = supported(target, at) or traits(at.op).view is not None
            todo = Work(0, 0) if at.modules and not isinstance(at.op, Fused) else work(at)
            amounts = (_known(extent, sizes) for extent in todo)
            costs.append(Cost(at, at.op.name if own else "", took, *amounts))
        last = time.perf_counter()

    executable.trace(arguments, seen, slots)
    return Profile(tuple(costs))


def _known(extent: Extent, sizes: Mapping[str, int]) -> int:
    """An amount at some sizes; 0 if it depends on data."""
    try:
        return evaluate(extent, sizes)
    except DimError:
        return 0


class Work(NamedTuple):
    """Operations on elements, and bytes moved: numbers, or expressions over symbols."""

    flops: Extent
    nbytes: Extent


def work(at: Instruction) -> Work:
    """The work of an instruction as far as its shapes tell, without a run.

    A product counts two operations for each multiplication in its sums, arithmetic one for each
    element and step, anything else one for each element of its results. Bytes are those of operands
    and results, each value once: of a broadcast its elements in memory, of a table at most what is
    picked. Views cost nothing. A fused instruction does the work of its module, and moves only its
    own operands and results; ``if`` and loops count each body once.
    """
    from migx.fusion.kernels import described

    if at.op.name.startswith("@") or traits(at.op).view is not None:
        return Work(0, 0)
    inside = [work(inner) for module in at.modules for inner in module]
    if inside and not isinstance(at.op, Fused):
        return Work(sum(each.flops for each in inside), sum(each.nbytes for each in inside))
    fused = described(at)
    if fused is not None:
        return Work(fused.flops, moved(at))
    return Work(sum(each.flops for each in inside) if inside else _flops(at), moved(at))


def total(program: Program) -> Work:
    """The work of all instructions of a program, see ``work``; without what only the weights module
    computes, which is done once.
    """
    main = [work(at) for at in program.main]
    return Work(sum(each.flops for each in main), sum(each.nbytes for each in main))


def _flops(at: Instruction) -> Extent:
    """The arithmetic of an instruction without submodules."""
    made, shapes = (
        sum(s.elements for s in at.shape.parts or (at.shape,)),
        [value.shape for value in at.inputs],
    )
    match at.op:
        case Dot() | QuantDot():
            return 2 * made * shapes[0].dims[-1]
        case ConvolutionBackwards():
            return 2 * shapes[0].elements * product(shapes[1].dims[1:])
        case Convolution() | QuantConvolution() | DeformableConvolution():
            return 2 * made * product(shapes[1].dims[1:])
        case Pooling():
            return made * product(at.op.lengths)
        case RNN() | GRU() | LSTM():
            return 2 * product(shapes[0].dims[:2]) * (shapes[1].elements + shapes[2].elements)
    return made


def moved(at: Instruction) -> Extent:
    """The bytes of an instruction's operands and results, each value once: of a broadcast its
    elements in memory, of another view the elements it has, of a table at most what is picked.
    """
    made, read = _bytes(at.shape), [_bytes(value.shape) for value in dict.fromkeys(at.inputs)]
    if isinstance(at.op, Gather | GatherElements | Gathernd):
        read[0] = minimum(read[0], made)
    elif isinstance(at.op, Group) and at.op.tag == "int4_gather":
        read = [minimum(each, made) for each in read]
    return sum(read) + made


def _bytes(shape: Shape) -> Extent:
    if shape.parts:
        return sum(map(_bytes, shape.parts))
    if not is_memory(shape):
        return 0
    return shape.nbytes if 0 in shape.true_strides else shape.as_standard().nbytes

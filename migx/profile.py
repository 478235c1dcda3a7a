"""What a run of a program costs, instruction by instruction: what ``migx perf`` shows; and what
each has to do, known without one.

An executable that can tell has ``profile(arguments, slots)``, which runs the program once and gives
a ``Profile``. Of one that has ``trace`` instead it is known when each result was there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

from migx.argument import Argument
from migx.binding import sizes_told
from migx.dim import Extent, evaluate, minimum, product
from migx.errors import DimError, TargetError
from migx.ir import Instruction
from migx.op import traits
from migx.ops.channels_last import ConvolutionChannelsLast
from migx.ops.fused import Fused
from migx.ops.indexing import Gather, GatherElements, Gathernd
from migx.ops.linear import Convolution, ConvolutionBackwards, Dot, QuantConvolution, QuantDot
from migx.ops.pooling import Pooling
from migx.ops.rnn import GRU, LSTM, RNN
from migx.ops.vision import DeformableConvolution
from migx.planning import is_memory
from migx.shape import Shape
from migx.target import supported

if TYPE_CHECKING:
    from migx.compiler import Compiled
    from migx.program import Program


Seen: TypeAlias = Callable[[Instruction, Argument], object]
"""What is shown each result of a run that is traced."""


@dataclass(frozen=True)
class Cost:
    """One instruction in one run: the kernel it ran as, "" where it ran on the host; the seconds it
    took itself, the arithmetic it did, and the bytes of its operands.
    """

    at: Instruction
    kernel: str
    seconds: float
    flops: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Profile:
    """One run: its costs in order, the bytes of the memory it worked in and of the weights it read,
    and what the machine could do at best in a second: operations on f32, and bytes moved. What is
    not known is 0.
    """

    costs: tuple[Cost, ...]
    arena: int = 0
    weights: int = 0
    peak_flops: float = 0.0
    peak_bytes: float = 0.0


@runtime_checkable
class Profiled(Protocol):
    """An executable that can tell what its runs cost."""

    def profile(self, arguments: Mapping[str, Argument], slots: Mapping[str, Argument]) -> Profile:
        """Runs once."""
        ...


@runtime_checkable
class Traced(Protocol):
    """An executable that can show each result as it is computed."""

    def trace(
        self, arguments: Mapping[str, Argument], seen: Seen, slots: Mapping[str, Argument]
    ) -> list[Argument]:
        """Runs once, and calls ``seen(instruction, result)`` for each instruction of any module;
        those of a body come before the one it is a body of.
        """
        ...


def can_tell(made: Compiled) -> bool:
    """Whether it is known what runs of a compiled program cost."""
    return isinstance(made.executable, (Profiled, Traced))


def measured(made: Compiled, arguments: Mapping[str, Argument], runs: int = 1) -> Profile:
    """The costs of a run that is not the first, on arguments that have been checked: of the
    quickest of so many.

    ``TargetError`` where the target cannot tell.
    """
    executable = made.executable
    if isinstance(executable, Profiled):
        profile = executable.profile
    elif isinstance(executable, Traced):
        profile = partial(_traced, made, executable)
    else:
        raise TargetError(f"target {made.context.target.name} does not say what its runs cost")
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
    """A run that is traced: each instruction took what passed since the result before it."""
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
    """An amount at some sizes; 0 where only the data decides it."""
    try:
        return evaluate(extent, sizes)
    except DimError:
        return 0


class Work(NamedTuple):
    """Operations on elements, and bytes moved: numbers, or expressions over symbols."""

    flops: Extent
    nbytes: Extent


def work(at: Instruction) -> Work:
    """What an instruction has to do, as far as its shapes tell, without a run.

    A product counts two for each factor of its sums, arithmetic one for each element and step of
    it, anything else one for each element of its results. Bytes are those of what it reads and
    gives: each value once, of a repeated one what there is of it, of a table what is picked at
    most. Views do nothing. What is fused does what is in it, and moves only what it reads and
    gives; of ``if`` and loops each body counts once.
    """
    from migx.fusion.kernels import described

    if at.op.name.startswith("@") or traits(at.op).view is not None:
        return Work(0, 0)
    inside = [work(inner) for module in at.modules for inner in module]
    if inside and not isinstance(at.op, Fused):
        return Work(sum(each.flops for each in inside), sum(each.nbytes for each in inside))
    fused = described(at)
    if fused is not None:
        return Work(fused.flops, _moved(at))
    return Work(sum(each.flops for each in inside) if inside else _flops(at), _moved(at))


def total(program: Program) -> Work:
    """What the instructions of a program have to do together, see ``work``; what only the module of
    weights computes is done once, and not counted.
    """
    main = [work(at) for at in program.main]
    return Work(sum(each.flops for each in main), sum(each.nbytes for each in main))


def _flops(at: Instruction) -> Extent:
    """The arithmetic of an instruction that holds no other."""
    made, shapes = (
        sum(s.elements for s in at.shape.parts or (at.shape,)),
        [value.shape for value in at.inputs],
    )
    match at.op:
        case Dot() | QuantDot():
            return 2 * made * shapes[0].dims[-1]
        case ConvolutionBackwards():
            return 2 * shapes[0].elements * product(shapes[1].dims[1:])
        case (
            Convolution() | ConvolutionChannelsLast() | QuantConvolution() | DeformableConvolution()
        ):
            return 2 * made * product(shapes[1].dims[1:])
        case Pooling():
            return made * product(at.op.lengths)
        case RNN() | GRU() | LSTM():
            return 2 * product(shapes[0].dims[:2]) * (shapes[1].elements + shapes[2].elements)
    return made


def _moved(at: Instruction) -> Extent:
    """The bytes of what an instruction reads and gives."""
    made, read = _bytes(at.shape), [_bytes(value.shape) for value in dict.fromkeys(at.inputs)]
    if isinstance(at.op, Gather | GatherElements | Gathernd):
        read[0] = minimum(read[0], made)
    return sum(read) + made


def _bytes(shape: Shape) -> Extent:
    if shape.parts:
        return sum(map(_bytes, shape.parts))
    return shape.nbytes if is_memory(shape) else 0

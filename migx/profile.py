"""What a run of a program costs, instruction by instruction: what ``migx perf`` shows; and what
each has to do, known without one.

An executable that can tell has ``profile(arguments, slots)``, which runs the program once and gives
a ``Profile``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from migx.argument import Argument
from migx.dim import Extent, minimum, product
from migx.errors import TargetError
from migx.ir import Instruction
from migx.op import traits
from migx.ops.channels_last import ConvolutionChannelsLast
from migx.ops.fused import Fused
from migx.ops.indexing import Gather, GatherElements, Gathernd
from migx.ops.linear import (
    Convolution,
    ConvolutionBackwards,
    Dot,
    QuantConvolution,
    QuantDot,
)
from migx.ops.pooling import Pooling
from migx.ops.rnn import GRU, LSTM, RNN
from migx.ops.vision import DeformableConvolution
from migx.planning import is_memory
from migx.shape import Shape

if TYPE_CHECKING:
    from migx.compiler import Compiled
    from migx.program import Program


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


def measured(made: Compiled, arguments: Mapping[str, Argument], runs: int = 1) -> Profile:
    """The costs of a run that is not the first, on arguments that have been checked: of the
    quickest of so many.

    ``TargetError`` where the target cannot tell.
    """
    executable = made.executable
    if not isinstance(executable, Profiled):
        raise TargetError(f"target {made.context.target.name} does not say what its runs cost")
    made.results(arguments)
    with made.weights.reading() as slots:
        found = [executable.profile(arguments, slots) for _ in range(runs)]
    return min(found, key=lambda profile: sum(cost.seconds for cost in profile.costs))


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

"""The operations of a program lowered for a GPU.

A value is on the host or on the device: results of these operations are on the device, except those
of ``gpu::copy_from``, and so are views of them; all others are on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from migx.argument import Argument
from migx.dim import Extent
from migx.op import Modules, Op, Runnable, Shapes, Traits
from migx.ops.builtin import Literal
from migx.ops.fused import Composite
from migx.shape import Shape

T = TypeVar("T")


class CodeObject(Composite):
    """A kernel and how it is launched. Its inputs are what the kernel reads, then the memory of its
    ``outputs`` results, then that of its ``scratch`` buffers.

    ``source`` is its Triton text, with ``pointers`` and ``words`` as parameters: the element types
    of the operands, and extents. ``grid`` is the number of programs, each of so many ``warps``,
    whose loads run ``stages`` ahead; ``aligned`` are the operands known to be aligned to 16 bytes;
    ``flops`` is for reports; ``turns`` is the number of launches, each with its index as one word
    more, or 0 for a single launch without. Its binaries are stored beside the program, each only
    once. If sizes may break the shape rules of what it
    computes, which it relies on, it holds that as a module, and the rules are asked again.
    """

    name = "gpu::code_object"
    traits = Traits(foldable=False, any_sizes=True)
    kernel: str
    source: str
    grid: Extent
    pointers: tuple[str, ...]
    words: tuple[Extent, ...] = ()
    aligned: tuple[int, ...] = ()
    warps: int = 4
    stages: int = 2
    outputs: int = 1
    flops: Extent = 0
    turns: Extent = 0
    scratch: int = 0

    def result(self, operands: Sequence[T], index: int) -> T:
        """The operand that holds one of the results."""
        return operands[len(operands) - self.scratch - self.outputs + index]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        results = [self.result(shapes, index) for index in range(self.outputs)]
        return results[0] if self.outputs == 1 else Shape.tuple(*results)


class Allocate(Op):
    """Device memory for a value, live as long as the value is."""

    name = "gpu::allocate"
    traits = Traits(foldable=False, any_sizes=True)
    shape: Shape

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return self.shape


class _Copy(Op, abstract=True):
    """A copy of a value elsewhere."""

    traits = Traits(foldable=False, any_sizes=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        (shape,) = shapes
        return shape

    def compute(
        self, context: Any, shape: Shape, arguments: list[Argument], modules: list[Runnable]
    ) -> Argument:
        return arguments[0]

    def roundings(self, shapes: Shapes, result: Shape) -> int:
        """A copy rounds nothing; some types of elements could not be rounded."""
        return 0


class CopyTo(_Copy):
    """A copy on the device of a host value."""

    name = "gpu::copy_to"


class CopyFrom(_Copy):
    """A copy on the host of a device value, once it has been computed; in standard layout."""

    name = "gpu::copy_from"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        (shape,) = shapes
        return shape.as_standard()


class Sync(_Copy):
    """A device value, once it has been computed."""

    name = "gpu::sync"


class Counted(Op):
    """The part in use of a value on the device that has room for more: as many elements along
    ``axis`` as the other operand, a number on the host, tells. They lie at its start without gaps,
    in rows as short as that; ``count`` is a symbol for their number.
    """

    name = "gpu::counted"
    traits = Traits(foldable=False)
    axis: int
    count: Extent

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        room, _ = shapes
        return room.with_dims((*room.dims[: self.axis], self.count, *room.dims[self.axis + 1 :]))


class DeviceLiteral(Literal):
    """A literal on the device, copied there once."""

    name = "gpu::literal"

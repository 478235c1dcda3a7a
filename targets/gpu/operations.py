"""The operations that a program lowered for a GPU is made of.

A value is on the host or on the device: what these make is on the device, but for what
``gpu::copy_from`` makes, and so are views of it; the rest is on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from migx.argument import Argument
from migx.dim import Extent
from migx.op import Modules, Op, Runnable, Shapes, Traits
from migx.ops.builtin import Literal
from migx.shape import Shape

T = TypeVar("T")


class CodeObject(Op):
    """A kernel and how it is launched. Its inputs are what the kernel reads and then, as many as
    ``outputs``, the memory it writes, which becomes the result; behind it as much ``scratch``.

    ``source`` is its Triton text, ``pointers`` and ``words`` the parameters of that: the element
    types of the operands, and extents. ``grid`` is the number of programs, each of so many
    ``warps``; ``aligned`` are the operands known to begin at multiples of 16 bytes; ``equal`` are
    extents that must be equal in pairs, one after the other; ``turns`` is how often it is launched,
    each time with the number of the turn as one word more, 0 for once and without. Its binaries
    stand beside the program, each once however often it is launched.
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
    equal: tuple[Extent, ...] = ()
    turns: Extent = 0
    scratch: int = 0

    def result(self, operands: Sequence[T], index: int) -> T:
        """The operand that holds one of the results."""
        return operands[len(operands) - self.scratch - self.outputs + index]

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        results = [self.result(shapes, index) for index in range(self.outputs)]
        return results[0] if self.outputs == 1 else Shape.tuple(*results)


class Allocate(Op):
    """Memory on the device for a value, for as long as that is read."""

    name = "gpu::allocate"
    traits = Traits(foldable=False, any_sizes=True)
    shape: Shape

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return self.shape


class _Copy(Op, abstract=True):
    """The same value elsewhere."""

    traits = Traits(foldable=False, any_sizes=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        (shape,) = shapes
        return shape

    def compute(
        self, context: Any, shape: Shape, arguments: list[Argument], modules: list[Runnable]
    ) -> Argument:
        return arguments[0]


class CopyTo(_Copy):
    """A value of the host's, on the device."""

    name = "gpu::copy_to"


class CopyFrom(_Copy):
    """A value of the device's, on the host, when it has been computed; in standard layout."""

    name = "gpu::copy_from"

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        (shape,) = shapes
        return shape.as_standard()


class Sync(_Copy):
    """A value of the device's, there, when it has been computed."""

    name = "gpu::sync"


class DeviceLiteral(Literal):
    """A literal on the device, brought there once."""

    name = "gpu::literal"

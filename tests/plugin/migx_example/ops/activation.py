"""Two activations: one on the base class, one that only keeps to the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes, Traits
from migx.shape import Shape


class SquaredRelu(Op):
    """max(x, 0) ** 2 (So et al. 2021, "Primer"). Its name, ``squared_relu``, is derived."""

    traits = Traits(pointwise=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        if len(shapes) != 1 or not shapes[0].dtype.is_float:
            given = ", ".join(map(str, shapes))
            raise ShapeError(f"{self.name} takes one tensor of floats, got {given}")
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        return np.square(np.maximum(x, 0))


@dataclass(frozen=True)
class Staircase:
    """x rounded down to a multiple of ``step``. No base class: a name and a shape rule will do."""

    name: ClassVar[str] = "staircase"
    traits: ClassVar[Traits] = Traits(pointwise=True)
    step: float = 1.0

    def compute_shape(self, shapes: Sequence[Shape], modules: Sequence[Any] = ()) -> Shape:
        (x,) = shapes
        return x.as_standard()

    def compute(self, x: NDArray[Any]) -> NDArray[Any]:
        return (np.floor(x / self.step) * self.step).astype(x.dtype)

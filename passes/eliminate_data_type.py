"""Replaces element types that a target lacks by another."""

from __future__ import annotations

import math
from collections.abc import Mapping

from migx import dim, plugins
from migx.errors import FieldError
from migx.ir import Instruction
from migx.ops.reduce import ReduceMax, ReduceMin
from migx.passes._retyping import Retyping
from migx.passes.eliminate_convert import holds
from migx.shape import DType, Shape


class EliminateDataType(Retyping):
    """Makes instructions compute in the element type ``to`` instead of any of ``types``: their
    inputs are converted, their results converted back (MIGraphX pass of this name).

    For targets that have kernels for some types only. Each result is still rounded to its own type.
    Only the operations in ``ops`` change, or all if it is empty. Floats are replaced by floats,
    integers by integers that hold all their values. Constants beyond the range of a narrower float
    type become its least or greatest number. Left as they are: converts; constants, which are
    computed on the host; instructions with modules; and those whose result differs in another type,
    such as random numbers, or the maximum of possibly no integers.
    """

    types: tuple[str, ...] = ()
    variants = ("to=f32,types=(f64)", "to=f64,types=(f16,bf16,f32)", "to=i32,types=(i8,u8,i16)")

    def __post_init__(self) -> None:
        to = DType.of(self.to)
        for dtype in self._dtypes():
            floats = dtype.is_float and to.is_float
            fits = floats or (dtype.is_integer and to.is_integer and holds(to, dtype))
            if dtype is to or not fits:
                raise FieldError(
                    f"pass eliminate_data_type: {self.to} cannot take the place of {dtype}: give "
                    "another float type for floats, for integers one that holds all their values"
                )
        super().__post_init__()

    @property
    def approximations(self) -> Mapping[str, float]:
        """No bound where ``to`` has fewer digits: an index that depends on values, or a test for
        equality, may then give another result.
        """
        exact = all(holds(DType.of(self.to), dtype) for dtype in self._dtypes())
        return {} if exact else dict.fromkeys(plugins.operations(), math.inf)

    def replaced(self, dtype: DType) -> bool:
        """Whether it is one of ``types``."""
        return dtype in self._dtypes()

    def takes(self, at: Instruction, made: Shape) -> bool:
        """All but a maximum or minimum of possibly no integers, which is a limit of their type."""
        if not isinstance(at.op, ReduceMax | ReduceMin) or not at.shape.dtype.is_integer:
            return True
        dims = at.inputs[0].shape.dims
        return all(dim.bounds(dims[axis])[0] > 0 for axis in at.op.axes)

    def _dtypes(self) -> list[DType]:
        return [DType.of(name) for name in self.types]

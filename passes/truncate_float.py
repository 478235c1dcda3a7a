"""Has instructions compute in a narrower float type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import ml_dtypes

from migx import plugins
from migx.builders import Builder, full_like
from migx.errors import FieldError, ShapeError, UnknownName, there_are
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.ops.builtin import GetTupleElem
from migx.ops.pointwise import Clip, Convert
from migx.ops.quantization import DequantizeLinear
from migx.shape import TUPLE, DType, Shape
from migx.weights import is_constant, value_of
from migx.weights.constants import is_unpacked

LEFT = Convert, GetTupleElem, DequantizeLinear
STEEP = ("acosh", "atanh", "div", "fmod", "log", "mod", "pow", "recip", "rsqrt", "tan")
"""Operations that jump, or grow beyond any bound, where an input moves as little as by one rounding
to 8 digits.
"""


class TruncateFloat(Pass):
    """Has instructions compute in the float type ``to``, f16 or bf16: their wider inputs are
    converted, their results converted back (MIGraphX truncate_float).

    ``ops`` are the operations to convert, all if it is empty. Constants beyond the range of ``to``
    become its least or greatest number, because an infinity would spread. Left as they are:
    instructions that depend only on constants, and so are computed once; those that dequantise, or
    read dequantised values or four-bit weights, which other passes turn into products of bytes;
    those with modules; and those that differ in another type, such as random numbers.
    """

    to: str
    ops: tuple[str, ...] = ()
    variants = ("to=f16", "to=bf16", "to=bf16,ops=(dot,add,mul)")

    def __post_init__(self) -> None:
        if self.to not in ("f16", "bf16"):
            raise FieldError(f"pass truncate_float: to is f16 or bf16, not {self.to}")
        known = plugins.operations() if self.ops else {}
        for name in self.ops:
            if name not in known:
                raise UnknownName(f"no operation is named {name!r}; {there_are(name, known)}")

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Looks at each instruction once."""
        constant: dict[Instruction, bool] = {}
        narrow: dict[Instruction, Instruction] = {}
        done = [
            manager.change(self, "truncate", at, partial(self.truncated, at, constant, narrow))
            for at in list(module)
            if self.can(at, constant)
        ]
        return any(done)

    @property
    def approximations(self) -> Mapping[str, float]:
        """Other results are as far off as the converts say."""
        return dict.fromkeys(STEEP, math.inf)

    @property
    def dtype(self) -> DType:
        """The type of that name."""
        return DType.of(self.to)

    def can(self, at: Instruction, constant: dict[Instruction, bool]) -> bool:
        """Whether an instruction is one of those to change, and means the same in ``to``."""
        if (self.ops and at.name not in self.ops) or at.name[0] == "@" or at.modules:
            return False
        if isinstance(at.op, LEFT) or not any(map(self._is_wide, at.inputs)):
            return False
        if is_constant(at, constant) or any(map(_is_dequantised, at.inputs)):
            return False
        whole = at.shape.dtype is TUPLE
        if whole and not all(isinstance(user.op, GetTupleElem) for user in at.users):
            return False
        wanted = self._narrowed(at.shape)
        try:
            made = at.op.compute_shape([self._narrowed(v.shape) for v in at.inputs], ())
        except ShapeError:
            return False
        return made.same_type(wanted) and not made.same_type(at.shape)

    def truncated(
        self,
        at: Instruction,
        constant: dict[Instruction, bool],
        narrow: dict[Instruction, Instruction],
    ) -> list[Instruction]:
        """Puts the instruction in ``to`` in the place of one."""
        module = at.owner
        for value in filter(self._is_wide, at.inputs):
            if value not in narrow:
                before = Builder.before(at, value.origins)
                narrow[value] = self._converted(before, value, is_constant(value, constant))
        inputs = [narrow.get(v, v) for v in at.inputs]
        made = module.insert_instruction(at, at.op, *inputs, origins=at.origins)
        for wide, result in self._results(at, made, module):
            back = Convert(wide.shape.dtype)
            module.replace_instruction(
                wide, module.insert_instruction(wide, back, result, origins=at.origins)
            )
        return [made]

    def _results(
        self, at: Instruction, made: Instruction, module: Module
    ) -> list[tuple[Instruction, Instruction]]:
        """The results that were wide, with those that take their place."""
        if at.shape.dtype is not TUPLE:
            return [(at, made)]
        found = []
        for user in list(at.users):
            part = module.insert_instruction(user, user.op, made, origins=user.origins)
            if self._is_wide(user):
                found.append((user, part))
            else:
                module.replace_instruction(user, part)
        return found

    def _converted(self, at: Builder, value: Instruction, constant: bool) -> Instruction:
        """A wide value in ``to``; that of a constant within its range."""
        if isinstance(value.op, Convert) and value.inputs[0].shape.dtype is self.dtype:
            return value.inputs[0]
        limit = float(ml_dtypes.finfo(self.dtype.numpy).max)  # type: ignore[no-untyped-call]
        if constant and not _is_within(value, limit):
            value = at(Clip(), value, *(full_like(at, value, end) for end in (-limit, limit)))
        return at(Convert(self.dtype), value)

    def _is_wide(self, value: Instruction) -> bool:
        return value.shape.dtype is not self._narrowed(value.shape).dtype

    def _narrowed(self, shape: Shape) -> Shape:
        """The shape in ``to``, where it is of a wider float type; of a tuple, each part."""
        if shape.dtype is TUPLE:
            return Shape.tuple(*map(self._narrowed, shape.parts))
        wide = shape.dtype.is_float and shape.dtype.bits > self.dtype.bits
        return shape.with_type(self.dtype) if wide else shape


def _is_dequantised(value: Instruction) -> bool:
    return isinstance(value.op, DequantizeLinear) or is_unpacked(value)


def _is_within(value: Instruction, limit: float) -> bool:
    """Whether a value is known to have no number beyond a limit: a literal that may be read."""
    held = value_of(value)
    return held is not None and bool(
        held.array.size == 0 or (held.array.max() <= limit and held.array.min() >= -limit)
    )

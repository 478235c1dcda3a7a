"""The base of passes that make instructions compute in another element type."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from migx import plugins
from migx.builders import Builder, full_like
from migx.errors import ShapeError, UnknownName, there_are
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.builtin import GetTupleElem
from migx.ops.pointwise import Clip, Convert
from migx.ops.quantization import limits, smallest
from migx.passes.eliminate_convert import holds
from migx.planning import source
from migx.shape import TUPLE, DType, Shape
from migx.weights import value_of


class Retyping(Pass):
    """Makes instructions, those named in ``ops`` or all, compute in the element type ``to`` where
    they read a type that is ``replaced``: their inputs are converted, their results converted back.
    """

    left: ClassVar[tuple[type[Operation], ...]] = (Convert, GetTupleElem)
    to: str
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = plugins.operations() if self.ops else {}
        for name in self.ops:
            if name not in known:
                raise UnknownName(f"no operation is named {name!r}; {there_are(name, known)}")

    def replaced(self, dtype: DType) -> bool:
        """Whether ``to`` replaces a type."""
        raise NotImplementedError

    def takes(self, at: Instruction, made: Shape) -> bool:
        """Whether to retype an instruction, whose shape would be ``made``."""
        return True

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Looks at each instruction once."""
        known: dict[Instruction, Instruction] = {}
        done = [
            manager.change(self, "retype", at, partial(self.made, at, known))
            for at in list(module)
            if self.can(at)
        ]
        return any(done)

    def can(self, at: Instruction) -> bool:
        """Whether an instruction is one to retype, and means the same in the other type. Constants,
        which are computed only once, stay.
        """
        if (self.ops and at.name not in self.ops) or at.name[0] == "@" or at.modules:
            return False
        if isinstance(at.op, self.left) or not any(map(self._changes, at.inputs)):
            return False
        whole = at.shape.dtype is TUPLE
        if whole and not all(isinstance(user.op, GetTupleElem) for user in at.users):
            return False
        try:
            made = at.op.compute_shape([self._shape(v.shape) for v in at.inputs], ())
        except ShapeError:
            return False
        if not made.same_type(self._shape(at.shape)) or at.constant:
            return False
        return self.takes(at, made)

    def made(self, at: Instruction, known: dict[Instruction, Instruction]) -> list[Instruction]:
        """Replaces an instruction by the same operation in the other type."""
        module = at.owner
        for value in filter(self._changes, at.inputs):
            if value not in known:
                before = Builder.before(at, value.origins)
                known[value] = self._converted(before, value)
        inputs = [known.get(v, v) for v in at.inputs]
        made = module.insert_instruction(at, at.op, *inputs, origins=at.origins)
        for old, result in self._results(at, made, module):
            back = Builder.before(old)(Convert(old.shape.dtype), result)
            module.replace_instruction(old, back)
        return [made]

    def _results(
        self, at: Instruction, made: Instruction, module: Module
    ) -> list[tuple[Instruction, Instruction]]:
        """The results whose type changes, each with its counterpart; replaces the others."""
        pairs = [(at, made)]
        if at.shape.dtype is TUPLE:
            pairs = [(user, Builder.before(user)(user.op, made)) for user in list(at.users)]
        for old, result in pairs:
            if not self._changes(old):
                module.replace_instruction(old, result)
        return [pair for pair in pairs if self._changes(pair[0])]

    def _converted(self, at: Builder, value: Instruction) -> Instruction:
        """A value in the other type: the input of a lossless convert from that type, else a
        convert. A constant that may be out of range is clipped first, because an infinity would
        spread, and so is a number that would become zero, since it may be a divisor's only term.
        """
        given, to = value.shape.dtype, DType.of(self.to)
        if isinstance(value.op, Convert) and value.inputs[0].shape.dtype is to and holds(given, to):
            return value.inputs[0]
        narrows = value.constant and to.is_float and not holds(to, given)
        if narrows and (ends := _ends(value, to)) is not None:
            value = at(Clip(), value, *(full_like(at, value, end) for end in ends))
        return at(Convert(to), value)

    def _changes(self, value: Instruction) -> bool:
        return self.replaced(value.shape.dtype)

    def _shape(self, shape: Shape) -> Shape:
        """A shape in the other type, part by part for a tuple."""
        if shape.dtype is TUPLE:
            return Shape.tuple(*map(self._shape, shape.parts))
        return shape.with_type(DType.of(self.to)) if self.replaced(shape.dtype) else shape


def _ends(value: Instruction, to: DType) -> tuple[float, float] | None:
    """The range to clip a constant to before it is converted to a narrower float type; None if it
    is a readable literal, or a view of one, that conversion leaves finite, and not zero unless it
    was or has several elements.
    """
    held, (least, greatest) = value_of(source(value)), limits(to)
    if held is None:
        return least, greatest
    if held.array.size == 0:
        return None
    low, high, tiny = held.array.min(), held.array.max(), smallest(to)
    if held.array.size == 1 and 0 < abs(low) < tiny:
        return (tiny, greatest) if low > 0 else (least, -tiny)
    return None if high <= greatest and low >= least else (least, greatest)

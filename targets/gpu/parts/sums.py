"""Sums of products of tiles along a depth: by matrix units, or elementwise.

Matrix units multiply signed bytes. An unsigned x is x' + 128 for a signed x', so x y is x' y + 128
y: the correction is the sum of the other operand alone, which each program accumulates beside. If
both are unsigned, it is 128 (x' + y), with y as given. Whatever is read beyond the depth, these
sums are exact.

Where f32 is multiplied as six products of bf16 (``emit/functions.py``), there are two tiles of
sums: of the first of the six, and of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from migx.dim import Extent
from migx.shape import DType
from migx.targets.gpu.arithmetic import products
from migx.targets.gpu.emit.expressions import BOTH, Expr
from migx.targets.gpu.emit.text import Writer
from migx.targets.gpu.emit.types import COMPUTING

HALF = 128
"""The difference between an unsigned byte and the signed one that represents it."""


def dot(how: str, *given: str) -> str:
    """The products of two matrices by matrix units, added to a third if that is given, with f32
    multiplied as ``how`` says.
    """
    said = [f'input_precision="{how}"'] if how else []
    return f"tl.dot({', '.join((*given, *said))})"


class Sums:
    """A tile of sums, rows by columns, in ``dtype``, of products of operands of types ``kinds``
    along a ``depth``; ``units`` says whether matrix units may multiply.
    """

    def __init__(
        self,
        writer: Writer,
        tile: Sequence[int],
        kinds: Sequence[DType],
        dtype: DType,
        depth: Extent,
        *,
        units: bool,
    ) -> None:
        self.writer, self.kinds, self.units = writer, kinds, units
        self.kind = COMPUTING[dtype.name]
        self._exact = units and dtype.is_integer
        self._total = self._zeros(list(tile))
        self._how = products(kinds[0], depth) if units else ""
        self._low = self._zeros(list(tile)) if self._how == "bf16x6" else None
        left, right = kinds if self._exact else (dtype, dtype)
        self._of_left = self._zeros([tile[0], 1]) if right.kind == "uint" else None
        self._of_right = self._zeros([1, tile[1]]) if left.kind == "uint" else None

    def _zeros(self, tile: list[int]) -> str:
        return self.writer.variable(f"tl.zeros({tile}, {self.kind})").text

    def add(self, x: Expr, y: Expr) -> None:
        """Adds the products of a tile of rows by depth with one of depth by columns; without matrix
        units, elementwise.
        """
        kind, total = self.kind, self._total
        if not self.units:
            self._set(total, f"{total} + {x.text}.to({kind}) * {y.text}.to({kind})")
        elif self._low is not None:
            low = self._low
            self._set(f"{total}, {low}", f"bf16x6_sums({x.text}, {y.text}, {total}, {low})")
        elif not self._exact:
            self._set(total, dot(self._how, x.text, y.text, total))
        else:
            self._add_bytes(x, y)

    def _add_bytes(self, x: Expr, y: Expr) -> None:
        left, right = self._signed(x, self.kinds[0]), self._signed(y, self.kinds[1])
        of_left, of_right, total = self._of_left, self._of_right, self._total
        self._set(total, f"tl.dot({left.text}, {right.text}, {total}, out_dtype=tl.int32)")
        if of_left is not None:
            self._set(of_left, f"{of_left} + {self._along(left, 1)}")
        if of_right is not None:
            self._set(of_right, f"{of_right} + {self._along(y, 0)}")

    def _along(self, value: Expr, axis: int) -> str:
        """The sums of a tile along one of its axes."""
        return f"tl.sum({value.text}.to({self.kind}), axis={axis}, keep_dims=True)"

    def _signed(self, value: Expr, dtype: DType) -> Expr:
        """The signed bytes that represent those of a type."""
        if dtype.kind != "uint":
            return value
        flipped = f"({value.text} ^ {HALF}).to(tl.int8, bitcast=True)"
        return self.writer.let(flipped, value.over)

    def _set(self, name: str, text: str) -> None:
        self.writer.line(f"{name} = {text}")

    def total(self) -> Expr:
        """The sums, once all products are added."""
        besides = [name for name in (self._of_left, self._of_right) if name is not None]
        text = " + ".join((self._total, *(f"{name} * {HALF}" for name in besides)))
        if (low := self._low) is not None:
            text = f"bf16x6_total({text}, {low})"
        return self.writer.let(text, BOTH)

"""Random programs of what models are made of: pointwise work, views, products, reductions.

Numbers stay small and away from zero where something divides by them, so that what is equal in
exact arithmetic is nearly equal in floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from migx import ops
from migx.dim import Dim, Extent
from migx.ir import Instruction
from migx.op import Operation
from migx.program import Program
from migx.shape import F32, F64, Shape

UNARY: list[Operation] = [ops.Relu(), ops.Neg(), ops.Tanh(), ops.Sigmoid(), ops.Erf(), ops.Abs()]
BINARY: list[Operation] = [ops.Add(), ops.Sub(), ops.Mul(), ops.Max(), ops.Min()]
REDUCTIONS = [ops.ReduceSum, ops.ReduceMean, ops.ReduceMax]


class Drawn:
    """A program while it is drawn; every value is a float tensor of two or three axes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.program = draw, Program()
        self.main = self.program.main
        lead: Extent = Dim("n", 1) if draw(st.booleans()) else 2
        dims = [(lead, 3, 4), (4, 3), (lead, 1, 4)]
        self.values = [self.main.add_parameter(f"p{i}", Shape(F32, d)) for i, d in enumerate(dims)]

    def finished(self) -> Program:
        forms = [self.unary, self.binary, self.with_number, self.with_weight, self.reduced]
        forms += [self.moved, self.folded, self.product, self.joined, self.cut, self.there_and_back]
        for _ in range(self.draw(st.integers(2, 14))):
            self.values.append(self.draw(st.sampled_from(forms))(self.pick()))
        results = st.lists(st.sampled_from(self.values[-4:]), min_size=1, max_size=2)
        self.main.add_return(*self.draw(results))
        return self.program

    def pick(self) -> Instruction:
        """A value, the latest most often."""
        return self.draw(st.sampled_from(self.values[-3:] + self.values))

    def do(self, op: Any, *inputs: Instruction) -> Instruction:
        return self.main.add_instruction(op, *inputs)

    def literal(self, dims: tuple[int, ...]) -> Instruction:
        few = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, -0.25, 3.0])
        count = int(np.prod(dims))
        drawn = self.draw(st.lists(few, min_size=count, max_size=count))
        return self.main.add_literal(np.array(drawn, np.float32).reshape(dims))

    def unary(self, x: Instruction) -> Instruction:
        return self.do(self.draw(st.sampled_from(UNARY)), x)

    def binary(self, x: Instruction) -> Instruction:
        same = [v for v in self.values if v.shape.same_type(x.shape)]
        pair = [x, self.draw(st.sampled_from(same))]
        return self.do(self.draw(st.sampled_from(BINARY)), *self.draw(st.permutations(pair)))

    def with_number(self, x: Instruction) -> Instruction:
        number = self.do(ops.Multibroadcast(x.shape.dims), self.literal(()))
        pair = self.draw(st.permutations([x, number]))
        return self.do(self.draw(st.sampled_from(BINARY)), *pair)

    def with_weight(self, x: Instruction) -> Instruction:
        """A vector along the last axis, or a quotient by numbers that are not zero."""
        last = x.shape.dims[-1]
        vector = self.literal((last if isinstance(last, int) else 1,))
        if self.draw(st.booleans()):
            return self.do(self.draw(st.sampled_from(BINARY)), x, self.spread(vector, x))
        one = self.main.add_literal(np.ones(1, np.float32))
        steady = self.do(ops.Add(), self.do(ops.Mul(), vector, vector), self.spread(one, vector))
        return self.do(ops.Div(), x, self.spread(steady, x))

    def spread(self, x: Instruction, like: Instruction) -> Instruction:
        return self.do(ops.Multibroadcast(like.shape.dims), x)

    def reduced(self, x: Instruction) -> Instruction:
        axis = self.draw(st.integers(0, x.shape.rank - 1))
        if x.shape.rank == 3 and self.draw(st.booleans()):
            return self.do(ops.Softmax(axis), x)
        whole = self.do(self.draw(st.sampled_from(REDUCTIONS))((axis,)), x)
        return self.spread(whole, x)

    def moved(self, x: Instruction) -> Instruction:
        order = self.draw(st.permutations(range(x.shape.rank)))
        return self.do(ops.Transpose(tuple(order)), x)

    def folded(self, x: Instruction) -> Instruction:
        if x.shape.rank == 3:
            a, b, c = x.shape.dims
            flat: list[tuple[Extent, ...]] = [(a, b * c), (a * b, c)]
            return self.do(ops.Reshape(self.draw(st.sampled_from(flat))), x)
        return self.do(ops.Unsqueeze((self.draw(st.integers(0, 2)),)), x)

    def product(self, x: Instruction) -> Instruction:
        last = x.shape.dims[-1]
        if x.shape.rank != 2 or not isinstance(last, int):
            return self.unary(x)
        width = self.draw(st.integers(1, 4))
        return self.do(ops.Dot(), x, self.literal((last, width)))

    def joined(self, x: Instruction) -> Instruction:
        axis = self.draw(st.integers(0, x.shape.rank - 1))
        same = [v for v in self.values if v.shape.same_type(x.shape)]
        return self.do(ops.Concat(axis), x, self.draw(st.sampled_from(same)))

    def cut(self, x: Instruction) -> Instruction:
        """A slice of an axis of known size."""
        known = [i for i, d in enumerate(x.shape.dims) if isinstance(d, int) and d > 1]
        if not known:
            return self.unary(x)
        axis = self.draw(st.sampled_from(known))
        size = int(x.shape.dims[axis])
        start = self.draw(st.integers(0, size - 1))
        end = self.draw(st.integers(start + 1, size))
        return self.do(ops.Slice((axis,), (start,), (end,)), x)

    def there_and_back(self, x: Instruction) -> Instruction:
        """Two things that cancel."""
        pairs: list[tuple[Operation, Operation]] = [
            (ops.Neg(), ops.Neg()),
            (ops.Convert(F64), ops.Convert(F32)),
            (ops.Unsqueeze((1,)), ops.Squeeze((1,))),
            (ops.Contiguous(), ops.Identity()),
        ]
        there, back = self.draw(st.sampled_from(pairs))
        return self.do(back, self.do(there, x))


@st.composite
def layers(draw: st.DrawFn) -> Program:
    """A small program of the kind models are made of."""
    return Drawn(draw).finished()

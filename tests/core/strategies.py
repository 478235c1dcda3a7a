"""Small random programs of every kind the IR can hold.

``programs()`` draws whole ones: parameters and symbols of strange names, dims with arithmetic,
literals of every element type with any bits, views with strides, broadcasts, tuples, deferred
weights, and submodules that read the values around them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from migx import dim, ops
from migx.argument import Argument
from migx.dim import Dim, Extent
from migx.errors import DimError
from migx.ir import Instruction, Module
from migx.ops.builtin import OnnxExternalWeights
from migx.program import Program
from migx.shape import BOOL, F32, I64, STR, DType, Shape
from migx.weights.hoisting import hoist_sources

WORDS = ["module", "return", "dim", "from", "bypass", "min", "max", "inf", "nan", "true", "f32"]
WORDS += ["i4", "tuple", "bytes", "sha256", "name", "int", "string", "x..y", "x.", "%0", "1", "a:b"]
TYPES = [t for t in DType.known.values() if t.is_tensor]

names = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(["x", "y", "batch"]),
    st.text(st.characters(codec="utf-8"), max_size=4),
)
"""Names of parameters, modules, results, dims and weights."""


@st.composite
def symbols(draw: st.DrawFn) -> Dim:
    """One symbol, with bounds and optimal sizes now and then."""
    name = draw(names.filter(bool))
    low = draw(st.sampled_from([0, 0, 1, 2]))
    high = draw(st.sampled_from([None, None, 7]))
    optimals = draw(st.sampled_from([(), (), (2,), (3, 5)]))
    return Dim(name, low, high, optimals)


@st.composite
def extents(draw: st.DrawFn, known: list[Dim]) -> Extent:
    """A number, a symbol, or an expression over symbols that cannot be negative."""
    if not known or draw(st.integers(0, 2)) == 0:
        return draw(st.integers(0, 4))
    a, other = draw(st.sampled_from(known)), list[Extent]([*known, 2, 3])
    b, form = draw(st.sampled_from(other)), draw(st.integers(0, 8))
    try:
        made = [a, a, a, a + b, a * b * 2 + 1, a // 3, (a + 1) // 2 * b]
        made += [dim.minimum(a, b), dim.broadcast(a + 1, b)]
        return made[form]
    except DimError:
        return a


@st.composite
def literals(draw: st.DrawFn, dtypes: st.SearchStrategy[DType] | None = None) -> Argument:
    """A value of any element type and any bits, small ones and a few too large for the text."""
    dtype = draw(dtypes or st.sampled_from(TYPES))
    dims = draw(st.sampled_from([(), (1,), (3,), (0,), (2, 2), (0, 3), (4, 5)]))
    shape = Shape(dtype, dims)
    count = int(np.prod(dims))
    if dtype is STR:
        text = st.text(st.characters(codec="utf-8"), max_size=3)
        array = np.empty(count, object)
        array[:] = draw(st.lists(text, min_size=count, max_size=count))
        return Argument(shape, array.reshape(dims))
    size = int(shape.nbytes)
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype.is_packed:
        return Argument.packed(shape, data)
    if dtype is BOOL:
        data = bytes(b & 1 for b in data)
    return Argument(shape, np.frombuffer(data, dtype.numpy).reshape(dims))


specials = st.sampled_from([-0.0, 0.0, float("nan"), -float("nan"), float("inf"), 1e-300])


class Drawn:
    """A program while it is drawn."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.program, self.weights = draw, Program(), 0
        unique = st.lists(symbols(), max_size=3, unique_by=str)
        self.symbols: list[Dim] = draw(unique)

    def pick(self, values: list[Instruction], *kinds: Any) -> Instruction | None:
        """One of the tensors of some kinds of element types, of some rank; None where none is."""
        fitting = [v for v in values if v.shape.dtype.kind in kinds]
        return self.draw(st.sampled_from(fitting)) if fitting else None

    def shape(self) -> Shape:
        """A tensor's shape, strided now and then."""
        dtype = self.draw(st.sampled_from([F32, F32, F32, I64, BOOL, DType.of("f16")]))
        dims = self.draw(st.lists(extents(self.symbols), max_size=3))
        order = self.draw(st.permutations(range(len(dims))))
        return Shape(dtype, dims).permuted(order)

    def main(self) -> Program:
        main = self.program.main
        values = [main.add_parameter(self.fresh("sizes"), Shape(F32, self.symbols))]
        values += [
            main.add_parameter(self.free(main.parameters), self.shape())
            for _ in range(self.draw(st.integers(0, 2)))
        ]
        self.fill(main, values, self.draw(st.integers(1, 6)), depth=0)
        main.bypass = self.draw(st.integers(0, 5)) == 0
        if self.draw(st.booleans()):
            hoist_sources(self.program)
        return self.program

    def free(self, taken: Any) -> str:
        return self.draw(names.filter(lambda name: name not in taken))

    def fresh(self, name: str) -> str:
        return self.draw(st.sampled_from([name, f"{name} 0", f'"{name}"']))

    def fill(self, module: Module, values: list[Instruction], count: int, depth: int) -> None:
        """Adds instructions on values of the module and those around it, and the return."""
        values = list(values)
        for _ in range(count):
            values += self.step(module, values, depth)
        returned = self.draw(st.lists(st.sampled_from(values), max_size=3))
        named = self.draw(st.booleans())
        module.add_return(*returned, names=[self.draw(names) for _ in returned] if named else ())

    def step(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        forms = [self.literal, self.leaf, self.unary, self.view, self.binary, self.pair]
        forms += [self.choice, self.loop] if depth < 2 else []
        origins = tuple(self.draw(st.lists(names, max_size=2, unique=True)))
        made = self.draw(st.sampled_from(forms))(module, values, depth)
        for at in made:
            at.origins = origins
        return made

    def literal(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        replaceable = self.draw(st.booleans())
        label = self.label() if replaceable else self.draw(names)
        return [module.add_literal(self.draw(literals()), name=label, replaceable=replaceable)]

    def label(self) -> str:
        """A weight's name, which no other has."""
        self.weights += 1
        return f"{self.draw(names)}.{self.weights}"

    def leaf(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        dims = tuple(self.draw(st.lists(extents(self.symbols), max_size=3)))
        packed = Shape("i4", (3, 5))
        weight = OnnxExternalWeights(self.label(), "weights.bin", 64, 8, packed)
        made = [weight, ops.Undefined()]
        made += [ops.DimLiteral(dims, (len(dims),))]
        return [module.add_instruction(self.draw(st.sampled_from(made)))]

    def unary(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        if (x := self.pick(values, "float")) is None or x.shape.dtype.is_packed:
            return []
        alpha = self.draw(st.one_of(st.floats(), specials))
        made = [ops.Relu(), ops.Elu(alpha), ops.Convert(I64), ops.Contiguous()]
        made += [ops.Pad((1,) * (2 * x.shape.rank), "edge"), ops.Nonzero(Dim("found"))]
        return [module.add_instruction(self.draw(st.sampled_from(made)), x)]

    def view(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        if (x := self.pick(values, "float", "int", "bool")) is None or x.shape.dtype.is_packed:
            return []
        order = tuple(self.draw(st.permutations(range(x.shape.rank))))
        lead = self.draw(extents(self.symbols))
        made = [ops.Transpose(order), ops.Unsqueeze((0,))]
        made += [ops.Multibroadcast((lead, *x.shape.dims))]
        made += [ops.Step((0,), (2,)), ops.Slice((0,), (0,), (1,))] if self.long(x) else []
        return [module.add_instruction(self.draw(st.sampled_from(made)), x)]

    @staticmethod
    def long(x: Instruction) -> bool:
        """Whether the first axis has at least one element, whatever the sizes."""
        return x.shape.rank > 0 and dim.bounds(x.shape.dims[0])[0] > 0

    def binary(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        x = self.pick(values, "float", "int")
        if x is None or x.shape.dtype.is_packed:
            return []
        same = [v for v in values if v.shape.same_type(x.shape)]
        return [module.add_instruction(ops.Add(), x, self.draw(st.sampled_from(same)))]

    def pair(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        x = self.pick(values, "float")
        if x is None or not x.shape.rank or x.shape.dtype.is_packed:
            return []
        both = module.add_instruction(ops.Topk(1 if self.long(x) else 0, 0), x)
        return [both, module.add_instruction(ops.GetTupleElem(1), both)]

    def inner(self, values: list[Instruction]) -> tuple[Module, list[Instruction]]:
        return self.program.create_module(self.free(self.program.modules)), list(values)

    def choice(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        """Both ways of an ``if`` read values around them and return the same one."""
        condition = module.add_literal(self.draw(st.booleans()))
        if self.draw(st.integers(0, 3)) == 0:
            shared = self.program.create_module(self.free(self.program.modules))
            shared.add_return(shared.add_literal(np.float32(1.0)))
            return [module.add_instruction(ops.If(), condition, modules=[shared, shared])]
        result = self.draw(st.sampled_from(values))
        ways = []
        for _ in range(2):
            way, seen = self.inner(values)
            for _ in range(self.draw(st.integers(0, 2))):
                seen += self.step(way, seen, depth + 1)
            way.add_return(result)
            ways.append(way)
        return [module.add_instruction(ops.If(), condition, modules=ways)]

    def loop(self, module: Module, values: list[Instruction], depth: int) -> list[Instruction]:
        trips = module.add_literal(self.draw(st.integers(0, 3)))
        none = module.add_instruction(ops.Undefined())
        carried = self.draw(st.sampled_from(values))
        body, seen = self.inner(values)
        shapes = [Shape(I64), Shape(BOOL), carried.shape.as_standard()]
        own = [body.add_parameter(self.free(body.parameters), shape) for shape in shapes]
        self.step(body, [*seen, *own], depth + 1)
        body.add_return(own[1], own[2])
        return [module.add_instruction(ops.Loop(), trips, none, carried, modules=[body])]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A program that verifies."""
    return Drawn(draw).main()

"""Random programs, drawn backwards from their results: each operation is chosen for the shape that
is wanted, so every program is valid, and computed while it is drawn, so no value is NaN, infinite
or large.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from migx import dim, ops
from migx.argument import Argument
from migx.dead_code import remove_dead_code, remove_dead_modules
from migx.dim import Dim
from migx.errors import DimError, MigxError, ShapeError
from migx.interpreter import Interpreter
from migx.ir import Instruction, Module
from migx.meaning import told_by
from migx.op import Operation
from migx.parser import drawn
from migx.program import Program
from migx.shape import BOOL, Shape
from migx.sizes import check_sizes, given_symbols, symbols_in, symbols_of
from migx.target import get_target
from migx.testing.control import CONTROL
from migx.testing.draws import MANY, PACKERS, TUPLES, Dice, Want, any_shape, draft, drawable, volume
from migx.testing.draws.basics import least
from migx.testing.draws.sizes import (
    FEW,
    WIDE,
    Sizes,
    draw_others,
    draw_sizes,
    draw_symbols,
    extents_of,
)
from migx.testing.motifs import MOTIFS
from migx.verify import captures

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

LARGEST = 1e3
"""The bound on float magnitudes, so that sums of products stay in the range of f16."""

LONG = 100
"""Longer mains keep no unused instructions: most of these are failed attempts."""

UNUSED = 2
"""The usual maximum of unused inputs, of which failed attempts leave many."""

COUNTED = 0.15
"""The share of programs, of those that are not wide, with many sizes that only the run tells."""

TRIES = 6
"""How many operations are tried for one result."""


@dataclass
class Drawn:
    """A program, inputs for it, and a count of its features; ``others`` are inputs of other sizes,
    which it may refuse.
    """

    program: Program
    inputs: dict[str, Argument]
    features: Counter[str] = field(default_factory=Counter)
    others: Sequence[Mapping[str, Argument]] = ()


class Author:
    """Writes one program. ``focus`` are preferred operations; ``symbolic`` adds symbolic dims and
    sizes for them.
    """

    def __init__(self, dice: Dice, focus: Sequence[str] = (), symbolic: bool = False) -> None:
        self.dice, self.focus = dice, tuple(name for name in focus if name in drawable())
        self.numpy = np.random.default_rng(dice.getrandbits(32))
        self.program = Program()
        self.module = self.program.main
        self.data: dict[Instruction, Argument] = {}
        self.known: dict[str, list[Instruction]] = {}
        self.symbols = draw_symbols(dice) if symbolic else ()
        self.sizes = draw_sizes(dice, self.symbols)
        dice.wide = dice.chance(WIDE)
        dice.extents = extents_of(dice, self.symbols)
        if dice.wide and not self.focus:
            self.focus = BY_PANELS
        elif dice.chance(COUNTED) and not self.focus:
            self.focus = BY_COUNTS
        self.wanted: dict[str, Want] = {}
        self.interpreter = Interpreter(self.program, get_target("ref").get_context())
        self.left, self.weights = dice.some(5, 24), 0
        self.unknowns = 0
        self.told: dict[str, tuple[Operation, Sequence[Instruction]]] = {}
        self.kept: dict[str, Any] = {}
        self.positive, self.in_tuples = dice.chance(0.2), dice.one_of((0.0, 0.0, 0.0, 0.1, 1.0))
        for symbol in self.symbols:
            self.given(Want(Shape("f32", (symbol,))))

    def finished(self, outputs: Iterable[Instruction]) -> Drawn:
        """The program that returns some values, mostly without dead code."""
        main = self.program.main
        main.add_return(*outputs)
        if self.dice.chance(0.9) or len(main) > LONG:
            self.drop_unused()  # there may be hundreds, and each is visited below
            for module in list(self.program.modules.values()):
                remove_dead_code(module)
            remove_dead_modules(self.program)
            self.drop_unused()
        inputs = {name: self.data[p] for name, p in main.parameters.items()}
        found = features(self.program)
        found["empty"] = sum(v.shape.elements == 0 for v in inputs.values() if not v.shape.parts)
        again = self.symbols or self.told
        others = [self.inputs_at(draw_others(self.dice, self.symbols))] if again else []
        return Drawn(self.program, inputs, found, others)

    def drop_unused(self) -> None:
        """Removes unused inputs except a few, preferably those that give symbols their sizes."""
        main = self.program.main
        unused = [p for p in main.parameters.values() if not p.users]
        for parameter in unused[len(self.symbols) + UNUSED :]:
            main.remove_instruction(parameter)

    def inputs_at(self, sizes: Sizes) -> dict[str, Argument]:
        """Inputs of other sizes."""
        found = dict[str, Argument]()
        for name in self.program.main.parameters:
            found[name] = self.argument(self.wanted[name].bind(sizes))
        return found

    def argument(self, want: Want) -> Argument:
        """A value as wanted, with a static shape."""
        if want.shape.parts:
            return Argument.tuple([self.argument(Want(part)) for part in want.shape.parts])
        return Argument(want.shape, self.array(want.shape, want))

    def shape(self) -> Shape:
        """A random shape, with the program's symbols if it has any."""
        return any_shape(self.dice)

    def value(self, want: Want, depth: int) -> Instruction:
        """A value as wanted: an existing one, an input, a constant, or the result of an operation,
        with up to ``depth`` operations above one another.
        """
        if want.values:
            given = self.dice.chance(0.2)
            return self.given(want) if given else self.literal_of(want)
        if want.shape.dtype.is_packed and self.dice.chance(0.5):
            packed = self.result(want.shape, depth, PACKERS)
            return self.leaf(want) if packed is None else packed
        if want.below or want.positive or want.constant or want.shape.dtype.is_packed:
            return self.leaf(want)
        there = self.known.get(want.shape.text, ())
        if there and self.dice.chance(0.5 if depth > 0 else 0.7):
            return self.dice.one_of(there)
        if depth <= 0 or self.left <= 0 or volume(want.shape) > MANY:
            return self.leaf(want)
        made = self.result(want.shape, depth)
        return self.leaf(want) if made is None else made

    def result(self, like: Shape, depth: int, names: Sequence[str] = ()) -> Instruction | None:
        """The result of an operation, one of ``names`` if given; None if none worked."""
        for _ in range(TRIES):
            kept = self.kept.get(like.text)
            if kept is not None and self.dice.chance(0.3) and not names:
                op, wants = kept
            else:
                name = self.dice.one_of(names or (TUPLES if like.parts else self.names()))
                if name in WHOLE:
                    if like.parts or depth < 2:
                        continue
                    made = self.whole(name, like, depth)
                    if made is not None:
                        return made
                    continue
                found = draft(name, self.dice, like)
                if found is None or not all(map(self.is_possible, found[1])):
                    continue
                op, wants = self.kept[like.text] = found
            self.left -= 1
            made = self.apply(op, [self.value(w, depth - 1) for w in wants])
            if made is not None:
                return made
        return None

    def is_possible(self, want: Want) -> bool:
        """Whether a value can be made as wanted: packed ones cannot be repeated."""
        packed = want.shape.dtype.is_packed and self.is_told(want.shape)
        return not packed and volume(want.shape) <= MANY

    def names(self) -> Sequence[str]:
        """The operations to choose from."""
        if self.focus and self.dice.chance(0.6):
            return self.focus
        return COMMON if self.dice.chance(0.6) else (*drawable(), *WHOLE)

    def whole(self, name: str, like: Shape, depth: int) -> Instruction | None:
        """A construct of several instructions with a shape; None if it cannot have it."""
        return CONTROL[name](self, like, depth) if name in CONTROL else self.motif(name, like)

    def motif(self, name: str, like: Shape) -> Instruction | None:
        """A motif with a shape; None if it cannot have it."""
        self.left -= 4
        made = MOTIFS[name](self, like)
        return made if made is None or made.shape.same_type(like) else None

    def apply(
        self, op: Operation, inputs: Sequence[Instruction], modules: Sequence[Module] = ()
    ) -> Instruction | None:
        """Adds an operation and computes it; returns None, and adds nothing, if it is refused or
        the result is out of range. Sizes that the result tells are known from then on.
        """
        sizes = self.sizes
        try:
            made = self.module.add_instruction(op, *inputs, modules=modules)
        except (ShapeError, DimError):
            self.refused(modules)
            return None
        try:
            untold = symbols_of(made) - self.sizes.keys()
            if self.sizes and not modules and not untold:
                check_sizes(made, self.sizes)
            result = self.evaluate(made, self.data)
            if untold:
                result, sizes = told_by(result, made.shape, self.sizes)
        except (MigxError, ArithmeticError, LookupError, TypeError, ValueError):
            result = None
        few = result is not None and all(sizes[name] <= FEW for name in untold)
        if result is None or not few or not is_fine(result):
            self.module.remove_instruction(made)
            self.refused(modules)
            return None
        self.sizes = sizes
        return self.keep(made, result)

    def refused(self, modules: Iterable[Module]) -> None:
        """Removes modules that no instruction uses; they may read values around them."""
        for module in modules:
            if not module.parents:
                self.program.remove_module(module)

    def keep(self, made: Instruction, result: Argument) -> Instruction:
        """Records an instruction and its value."""
        self.data[made] = result
        if not made.shape.parts:
            self.known.setdefault(made.shape.text, []).append(made)
        return made

    def evaluate(self, at: Instruction, data: Mapping[Instruction, Argument]) -> Argument:
        """The value of an instruction whose inputs have values."""
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            return self.interpreter.value(at, self.sizes, data)

    def leaf(self, want: Want) -> Instruction:
        """A constant, or an input of the program."""
        if want.shape.parts and (self.is_told(want.shape) or self.dice.chance(0.5)):
            condition = self.constant(Want(Shape(BOOL, ())))
            arms = [self.arm([Want(p) for p in want.shape.parts], 0) for _ in "ab"]
            made = self.apply(ops.If(), [condition], arms)
            assert made is not None
            return made
        fixed = want.constant or want.shape.dtype.is_packed or self.dice.chance(0.35)
        fixed = fixed and want.shape.static and not want.shape.parts
        return self.constant(want) if fixed else self.given(want)

    def given(self, want: Want) -> Instruction:
        """An input of the program, occasionally strided or a member of a tuple. Where the run tells
        a dim, it is repeated: no input has such a dim.
        """
        if self.is_told(want.shape):
            return self.leaf(want) if want.shape.parts else self.repeated(want)
        if not self.told.keys().isdisjoint(s.name for s in dim.symbols(want.below)):
            want = replace(want, below=least(want.below))
        main = self.program.main
        plain = want == Want(want.shape) and not want.shape.parts
        other = self.shape() if plain and self.dice.chance(self.in_tuples) else None
        if other is not None and not self.is_told(other):
            whole = self.given(Want(Shape.tuple(other, want.shape)))
            made = self.apply(ops.GetTupleElem(1), [whole])
            assert made is not None
            return made
        shape = want.shape if want.shape.parts else want.shape.as_standard()
        if shape.rank > 1 and not shape.dtype.is_packed and self.dice.chance(0.15):
            order = self.dice.sample(range(shape.rank), shape.rank)
            inverse = [order.index(i) for i in range(shape.rank)]
            shape = Shape(shape.dtype, [shape.dims[i] for i in inverse]).permuted(order)
        name = f"x{len(main.parameters)}"
        made, shape = main.add_parameter(name, shape), shape.as_standard()
        self.wanted[name] = want = replace(want, shape=shape)
        return self.keep(made, self.argument(want.bind(self.sizes)))

    def repeated(self, want: Want) -> Instruction:
        """A value as wanted, the same along each axis whose size the run tells."""
        dims = want.shape.dims
        told = [not isinstance(d, int) and self.is_told(want.shape.with_dims((d,))) for d in dims]
        one = want.shape.with_dims([1 if t else d for t, d in zip(told, dims, strict=True)])
        return self.spread(ops.Multibroadcast(dims), self.leaf(replace(want, shape=one)))

    def unknown(self) -> Dim:
        """A new symbol, for a size that the run tells."""
        self.unknowns += 1
        return Dim(f"t{self.unknowns}")

    def tell(self, symbol: Dim, op: Operation, inputs: Sequence[Instruction]) -> Instruction | None:
        """``apply`` for an operation whose result tells the size of a symbol."""
        made = self.apply(op, inputs)
        if made is not None:
            self.told[str(symbol)] = op, inputs
        return made

    def is_told(self, shape: Shape) -> bool:
        """Whether the run tells a dim of a shape."""
        return not self.told.keys().isdisjoint(symbols_in(shape))

    def constant(self, want: Want) -> Instruction:
        """A literal, or a broadcast of a small one."""
        shape = want.shape.as_standard()
        if shape.dtype.is_packed:
            return self.literal(drawn(shape, self.dice.getrandbits(32)))
        form = self.dice.random() if shape.rank and not want.below else 1.0
        if form < 0.25:
            small = self.literal(Argument.of(self.array(shape.with_dims(()), want)))
            return self.spread(ops.Multibroadcast(shape.dims), small)
        if form < 0.5:
            axis = self.dice.some(0, shape.rank - 1)
            vector = shape.with_dims(shape.dims[axis : axis + 1])
            small = self.literal(Argument.of(self.array(vector, want)))
            return self.spread(ops.Broadcast(axis, shape.dims), small)
        return self.literal(Argument(shape, self.array(shape, want)))

    def spread(self, op: Operation, small: Instruction) -> Instruction:
        """A broadcast of a literal."""
        made = self.apply(op, [small])
        assert made is not None
        return made

    def literal_of(self, want: Want) -> Instruction:
        """A fixed literal as wanted."""
        value = Argument(want.shape, self.array(want.shape, want))
        return self.keep(self.module.add_literal(value), value)

    def literal(self, value: Argument) -> Instruction:
        """Adds a literal."""
        replaceable = self.dice.chance(0.1)
        self.weights += replaceable
        name = f"w{self.weights}" if replaceable else ""
        return self.keep(self.module.add_literal(value, name=name, replaceable=replaceable), value)

    def array(self, shape: Shape, want: Want) -> NDArray[Any]:
        """Values as wanted: one plain number throughout, or numbers that are distinct, not near 0,
        and not near halves.
        """
        dims, dtype = [int(d) for d in shape.dims], shape.dtype
        if want.values:
            return np.array(want.values).astype(dtype.numpy).reshape(dims)
        if want.below:
            high = least(want.below)
            low = -high if want.from_end else 0
            return self.numpy.integers(low, high, dims).astype(dtype.numpy)
        if dtype is BOOL:
            return self.numpy.integers(0, 2, dims).astype(np.bool_)
        if self.dice.chance(0.25) and not want.positive:
            return np.full(dims, self.dice.one_of((0, -0.0, 1, 1, 2, 3)), dtype.numpy)
        if dtype.is_integer:
            low = -4 if dtype.kind == "int" and not want.positive else int(want.positive)
            return self.numpy.integers(low, 8, dims).astype(dtype.numpy)
        values = self.numpy.uniform(0.25, 1.75, dims)
        if not (want.positive or self.positive):
            values *= self.numpy.integers(0, 2, dims) * 2 - 1
        return values.astype(dtype.numpy)

    def arm(self, wants: Sequence[Want], depth: int) -> Module:
        """A module without parameters that returns values as wanted."""
        return self.inside("arm", lambda _: [self.standard(self.value(w, depth)) for w in wants])

    def standard(self, value: Instruction) -> Instruction:
        """The value in standard layout, as modules return it."""
        made = value if value.shape.strides is None else self.apply(ops.Contiguous(), [value])
        assert made is not None
        return made

    def inside(self, name: str, write: Callable[[Module], list[Instruction]]) -> Module:
        """A new module; its values are visible only in it."""
        module = self.program.add_module(name)
        around, known, kept = self.module, self.known, self.kept
        sizes, extents = self.sizes, self.dice.extents
        self.module, self.kept = module, {}
        self.known = {text: list(values) for text, values in known.items()}
        try:
            module.add_return(*write(module))
        finally:
            self.module, self.known, self.kept = around, known, kept
            self.sizes, self.dice.extents = sizes, extents
        return module


WHOLE = ("if", "if", "if", "loop", "loop", "scan", "scan", *MOTIFS)
"""Constructs of several instructions."""

COMMON = (
    *("add", "mul", "sub", "div", "add", "mul", "relu", "exp", "sqrt", "rsqrt", "neg", "abs"),
    *("sigmoid", "tanh", "max", "min", "clip", "where", "equal", "greater", "convert", "dot"),
    *("dot", "convolution", "pooling", "reduce_sum", "reduce_mean", "reduce_max", "softmax"),
    *("transpose", "reshape", "squeeze", "unsqueeze", "broadcast", "multibroadcast", "slice"),
    *("multibroadcast", "concat", "gather", "contiguous", "pad", "get_tuple_elem"),
    *("quantizelinear", "dequantizelinear"),
)
"""What models are made of, drawn more often than others."""


BY_PANELS = (
    *("dot",) * 4,
    *("convolution",) * 4,
    *("softmax", "softmax", "reduce_sum", "reduce_sum", "reduce_mean", "reduce_max"),
    *("quant_dot", "gather"),
)
"""What kernels compute in panels, drawn more often if dims are wide."""


BY_COUNTS = (
    *("counted",) * 6,
    *("if", "loop", "scan", "add", "mul", "where", "dot", "reshape", "concat", "gather", "slice"),
)
"""What is computed with sizes that only the run tells, and where."""


def draw_program(dice: Dice) -> Drawn:
    """A program of about 5 to 30 instructions."""
    author = Author(dice, symbolic=dice.chance(0.2))
    outputs = list[Instruction]()
    while author.left > 0 and len(outputs) < 3:
        outputs.append(author.value(Want(author.shape()), dice.some(3, 6)))
    return author.finished(outputs)


def features(program: Program) -> Counter[str]:
    """Counts of the program (1) and of kinds of instructions: submodules, tuples, strided and
    symbolic shapes, those with sizes that the run tells, broadcasts, constants, captures, element
    types.
    """
    given = given_symbols(program)
    found: Counter[str] = Counter()
    for module in program.modules.values():
        found["captures"] += any(True for _ in captures(module))
        for at in module:
            shape = at.shape
            found["instructions"] += 1
            found["submodules"] += len(at.modules)
            found["tuples"] += bool(shape.parts)
            found["broadcasts"] += at.op.name in ("broadcast", "multibroadcast")
            found["strided"] += not shape.parts and not shape.standard
            found["symbolic"] += not shape.static
            found["told"] += not symbols_in(shape) <= given
            found["constants"] += at.op.name == "@literal"
            found[str(shape.dtype)] += 1
    return found


def programs() -> SearchStrategy[Drawn]:
    """A hypothesis strategy for the programs, which draws their seeds. Hypothesis is in the
    ``test`` extra.
    """
    try:
        from hypothesis import strategies as st
    except ImportError as error:
        raise MigxError("strategies need hypothesis: pip install 'migx[test]'") from error
    return st.integers(0, 2**32 - 1).map(lambda seed: draw_program(Dice(seed)))


def is_fine(result: Argument) -> bool:
    """Whether a value has its inferred dims, and all floats are finite and moderate."""
    if result.shape.parts:
        return all(map(is_fine, result.parts))
    if not result.shape.dtype.is_tensor or result.shape.dtype.is_packed:
        return True
    array = result.array
    if array.shape != result.shape.dims or not result.shape.dtype.is_float:
        return bool(array.shape == result.shape.dims)
    return not array.size or bool(np.max(np.abs(array.astype(np.float64))) <= LARGEST)

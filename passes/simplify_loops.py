"""Makes less of what loops carry from one iteration to the next."""

from __future__ import annotations

from collections.abc import Sequence

from migx.dim import Dim, Extent, symbols
from migx.errors import DimError, ShapeError
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.builtin import GetTupleElem, Return
from migx.ops.control import Loop
from migx.ops.layout import Concat, Contiguous, Reshape, Transpose
from migx.program import Program
from migx.shape import Shape
from migx.specialise import substitute_symbols


class SimplifyLoops(Pass):
    """Takes out of a ``loop`` what it need not carry.

    A value that the body hands on as it got it is read from outside. One that only grows by a piece
    in each iteration becomes a scan output, whose pieces are joined after the loop: then all that
    is carried keeps its dims.
    """

    def apply(self, module: Module, manager: PassManager) -> bool:
        loops = [at for at in module if isinstance(at.op, Loop)]
        changed = [simplified(at) for at in loops if _is_own(at)]
        return any(changed)


def _is_own(at: Instruction) -> bool:
    """Whether the body is the loop's to change, and its results are read one by one."""
    return at.modules[0].parent is at and all(isinstance(u.op, GetTupleElem) for u in at.users)


def simplified(at: Instruction) -> bool:
    """Replaces a loop by one that carries less, if there is one."""
    loop = _Carrying(at)
    passed_on = [i for i in range(loop.count) if loop.is_passed_on(i)]
    grown = [i for i in range(loop.count) if loop.grows(i)]
    if not passed_on and not grown:
        return False
    results: dict[int, Instruction] = {i: loop.from_outside(i) for i in passed_on}
    rows = [loop.returned[1 + i].inputs[1] for i in grown]
    kept = [i for i in range(loop.count) if i not in passed_on and i not in grown]
    scanned = range(loop.count, len(at.shape.parts))
    made = loop.replaced([*kept, *scanned], rows)
    for place, i in enumerate((*kept, *scanned)):
        results[i] = loop.add(GetTupleElem(place), made)
    for place, i in enumerate(grown, len(kept) + len(scanned)):
        pieces = loop.add(GetTupleElem(place), made)
        joined = loop.joined(loop.firsts[i], pieces, loop.axis(i))
        results[i] = loop.add(Reshape(at.shape.parts[i].dims), joined)
    for user in list(at.users):
        assert isinstance(user.op, GetTupleElem)
        loop.module.replace_instruction(user, results[user.op.index])
        loop.module.remove_instruction(user)
    loop.module.remove_instruction(at)
    for i in grown:
        say_length(results[i])
    return True


def say_length(at: Instruction) -> None:
    """Says in the whole program what the length of a value that has grown is. An operation that
    refuses it would refuse every run: then it is left to the runs to say so.
    """
    assert at.module is not None
    (joined,) = at.inputs
    pairs = zip(at.shape.dims, joined.shape.dims, strict=True)
    extents = {s.name: known for mine, known in pairs if mine != known for s in symbols(mine)}
    try:
        substitute_symbols(at.module.program, extents)
    except (DimError, ShapeError):
        return
    at.module.replace_instruction(at, joined)
    at.module.remove_instruction(at)


class _Carrying:
    """A loop, its body, and what it carries."""

    def __init__(self, at: Instruction) -> None:
        assert at.module is not None
        self.at, self.module, self.body = at, at.module, at.modules[0]
        self.firsts = at.inputs[2:]
        self.count = len(self.firsts)
        self.parameters = list(self.body.parameters.values())[2:]
        self.returned, ends = self.body.outputs, self.body.returned
        self.named = ends is not None and isinstance(ends.op, Return) and bool(ends.op.names)
        stacks = at.shape.parts[self.count :]
        self.length: Extent = (
            stacks[0].dims[0] if stacks else _fresh(at.module.program, f"{self.body.name}.trips")
        )

    def add(
        self, op: Operation, *inputs: Instruction, modules: Sequence[Module] = ()
    ) -> Instruction:
        """An instruction before the loop."""
        return self.module.insert_instruction(
            self.at, op, *inputs, modules=modules, origins=self.at.origins
        )

    def is_passed_on(self, i: int) -> bool:
        """Whether a value stays what it was at first."""
        shape = self.parameters[i].shape
        same = shape.same_type(self.firsts[i].shape) and shape.same_type(self.at.shape.parts[i])
        return same and self.returned[1 + i] is self.parameters[i]

    def from_outside(self, i: int) -> Instruction:
        """Lets the body read the first value instead of the parameter, and gives it."""
        first = self.firsts[i]
        if first.shape != self.parameters[i].shape:
            first = self.add(Contiguous(), first)
        return self.body.replace_instruction(self.parameters[i], first)

    def axis(self, i: int) -> int:
        """The axis along which a value grows."""
        op = self.returned[1 + i].op
        assert isinstance(op, Concat)
        return op.axis

    def grows(self, i: int) -> bool:
        """Whether all that the body does to a value is to add a piece of the same dims each time
        behind it.
        """
        value, parameter = self.returned[1 + i], self.parameters[i]
        if not isinstance(value.op, Concat) or len(value.inputs) != 2:
            return False
        before, piece = value.inputs
        inside = {s.name for p in self.parameters for s in p.shape.symbols()}
        outside = {s.name for first in self.firsts for s in first.shape.symbols()}
        return (
            before is parameter
            and parameter.use_count == value.use_count == 1
            and piece is not parameter
            and not {s.name for s in piece.shape.symbols()} & (inside - outside)
            and self._is_longer(i, piece.shape)
        )

    def _is_longer(self, i: int, piece: Shape) -> bool:
        """Whether only the length along the axis is another after the loop."""
        dims = [s.dims for s in (self.firsts[i].shape, piece, self.at.shape.parts[i])]
        first, *others = [(*d[: self.axis(i)], *d[self.axis(i) + 1 :]) for d in dims]
        return all(other == first for other in others) and self._is_open(i)

    def _is_open(self, i: int) -> bool:
        """Whether the length after the loop has a name that nothing else is called by."""
        length = self.at.shape.parts[i].dims[self.axis(i)]
        main = self.module.program.main.parameters.values()
        given = {s for v in (*main, *self.firsts) for s in v.shape.symbols()}
        return isinstance(length, Dim) and length.symbol is not None and length.symbol not in given

    def replaced(self, kept: list[int], rows: list[Instruction]) -> Instruction:
        """A loop whose body hands on fewer values, and some as rows of scan outputs."""
        parts, names = self.at.shape.parts, self.body.output_names
        stacks = [Shape(v.shape.dtype, (self.length, *v.shape.dims)) for v in rows]
        outputs = [self.body.outputs[0], *(self.body.outputs[1 + i] for i in kept), *rows]
        named = [names[0], *(names[1 + i] for i in kept), *(f"rows.{i}" for i in range(len(rows)))]
        self.body.add_return(*outputs, names=named if self.named else ())
        carried = [self.firsts[i] for i in kept if i < self.count]
        self._drop(kept)
        op = Loop((*(parts[i] for i in kept), *stacks))
        return self.add(op, *self.at.inputs[:2], *carried, modules=[self.body])

    def _drop(self, kept: list[int]) -> None:
        """Takes the parameters out of the body that are not kept, and what grew them."""
        for i, parameter in enumerate(self.parameters):
            if i in kept:
                continue
            for user in list(parameter.users):
                self.body.remove_instruction(user)
            self.body.remove_instruction(parameter)

    def joined(self, first: Instruction, rows: Instruction, axis: int) -> Instruction:
        """The first value with the pieces of all iterations behind it."""
        rank, dims = first.shape.rank, rows.shape.dims
        order = (*range(1, axis + 1), 0, *range(axis + 1, rank + 1))
        turned = self.add(Transpose(order), rows) if axis else rows
        whole = (*dims[1 : axis + 1], dims[0] * dims[axis + 1], *dims[axis + 2 :])
        return self.add(Concat(axis), first, self.add(Reshape(whole), turned))


def _fresh(program: Program, name: str) -> Dim:
    """A symbol that the program does not have yet."""
    taken, count = program.symbols(), 0
    found = name
    while found in taken:
        count += 1
        found = f"{name}.{count}"
    return Dim(found)

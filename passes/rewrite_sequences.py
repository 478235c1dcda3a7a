"""Reads rows of a tensor instead of the members of the sequence it is split into."""

from __future__ import annotations

from migx import ops
from migx.builders import astype, at_index, full_like, number
from migx.dim import Extent
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager
from migx.match import on, var
from migx.op import Operation
from migx.ops.control import Assume, Loop
from migx.ops.sequences import SequenceAt, SplitToSequence
from migx.passes.simplify_counting.counters import Counters
from migx.passes.simplify_loops import Carrying, fresh, is_own, say_length
from migx.rewrite import Cursor, Declined, RuleSet, rule
from migx.shape import I64


@rule(on(SequenceAt, on(SplitToSequence, var("x"), name="cut"), var("i"), name="root"))
def row(
    at: Cursor, x: Instruction, i: Instruction, cut: Instruction, root: Instruction
) -> Instruction | Declined:
    """A member of a sequence that a tensor is split into, row by row, is a row of the tensor."""
    op = cut.op_as(SplitToSequence)
    if x.shape.dtype.is_packed or x.shape.dtype.kind == "string":
        return Declined("its elements are not numbers of whole bytes")
    found = at(ops.Gather(op.axis), x, at(ops.Reshape((1,) if op.keepdims else ()), i))
    same = found.shape.same_type(root.shape)
    return found if same else Declined("the member may have other dims than the row")


class RewriteSequences(Pass):
    """Reads a row of a tensor where a member of the sequence that it is split into is read, and
    turns a loop that repeats each row by a count of its own and joins the results, as PyTorch
    exports ``repeat_interleave``, into a gather.
    """

    rules = RuleSet(row)

    def apply(self, module: Module, manager: PassManager) -> bool:
        changed = super().apply(module, manager)
        loops = [at for at in module if isinstance(at.op, Loop) and is_own(at)]
        return any([*map(repeated, loops), changed])


def repeated(at: Instruction) -> bool:
    """Turns a loop that repeats rows into a gather; returns whether it was one."""
    found = _Repeats(at)
    if not found.holds():
        return False
    loop, rows = found.loop, found.rows()
    made = []
    for read in loop.readers(0):
        op = read.op_as(ops.ConcatFromSequence)
        made.append(loop.add(ops.Reshape(op.output.dims), rows))
        loop.module.replace_instruction(read, made[-1])
        loop.module.remove_instruction(read)
    for user in list(at.users):
        loop.module.remove_instruction(user)
    loop.module.remove_instruction(at)
    for each in made:
        say_length(each)
    return True


class _Repeats:
    """A loop that may repeat each row of ``x`` by its count in ``times``; a count of ``one_at``
    stands for 1.
    """

    def __init__(self, at: Instruction) -> None:
        self.at, self.loop, self.counters = at, Carrying(at), Counters()
        self.x = self.times = at
        self.one_at: int | None = None

    def holds(self) -> bool:
        """Whether it does."""
        loop, of = self.loop, self.loop.iterations
        if loop.count != 1 or len(self.at.shape.parts) != 1:
            return False
        if (member := loop.member(0)) is None or not (of.is_counted and of.begins):
            return False
        return (
            self._is_repeated(member)
            and self.counters.one(self.at.inputs[0]) == self.x.shape.dims[0]
            and self.times.shape.dims == self.x.shape.dims[:1]
            and all(self._joins(read, member) for read in loop.readers(0))
        )

    def _joins(self, read: Instruction, member: Instruction) -> bool:
        op = read.op
        if not isinstance(op, ops.ConcatFromSequence) or op.new_axis or op.axis % op.output.rank:
            return False
        return self.loop.joins(read, member.shape)

    def _is_repeated(self, member: Instruction) -> bool:
        """Whether a member is a row of ``x`` repeated by a count that the run gives."""
        chain = [member]
        for op in (ops.Reshape, ops.Multibroadcast, ops.Unsqueeze):
            if not isinstance(chain[-1].op, op):
                return False
            chain.append(chain[-1].inputs[0])
        _, wide, apart, one = chain
        rest = one.shape.dims[1:]
        if len(member.inputs) != 1 or len(wide.inputs) != 2 or apart.op != ops.Unsqueeze((1,)):
            return False
        if not self._is_row(one) or member.shape.dims[1:] != rest:
            return False
        self.x = one.inputs[0]
        dims = self.counters.of(self._dims(wide.inputs[1]))
        if dims is None or (1, *rest) != (dims[0], *dims[2:]):
            return False
        return self._is_number(dims[1])

    def _dims(self, dims: Instruction) -> Instruction:
        """The dims that are broadcast to, before ``one_at`` among them was replaced by 1."""
        if isinstance(dims.op, ops.Where) and isinstance(dims.inputs[0].op, ops.Equal):
            asked, ones, others = dims.inputs
            what, number = (self.counters.of(v) for v in (ones, asked.inputs[1]))
            if what is None or number is None or asked.inputs[0] is not others:
                return dims
            numbers = {*number.reshape(-1).tolist()}
            if {*what.reshape(-1).tolist()} == {1} and len(numbers) == 1:
                (self.one_at,) = numbers
                return others
        return dims

    def _is_row(self, value: Instruction) -> bool:
        """Whether a value is the row whose index is the number of the iteration."""
        if value.op != ops.Gather(0) or value.inputs[1].shape.dims != (1,):
            return False
        x, place = value.inputs
        counted = self.counters.one(place) == self.counters.iteration(self.at)
        return counted and x.module is not self.loop.body and x.shape.rank > 0

    def _is_number(self, number: Extent) -> bool:
        """Whether a number is the count of the iteration's row."""
        whose = self.counters.whose(number)
        if whose is None or not self._is_row(whose):
            return False
        self.times = whose.inputs[0]
        return True

    def rows(self) -> Instruction:
        """All rows, each repeated by its count."""
        add, program = self.loop.add, self.loop.module.program
        name = self.loop.body.name
        (count,) = self.times.shape.dims
        most, total = (fresh(program, f"{name}.{what}") for what in ("most", "rows"))
        times = self._times()
        zero, one = number(add, 0), number(add, 1)
        every = add(ops.Concat(0), times, add.literal([0]))
        least = add(ops.GreaterOrEqual(), self._only(ops.ReduceMin((0,)), every), zero)
        x = add(Assume(True, "a row is to be repeated a negative number of times"), self.x, least)
        places = add(ops.DynamicRange(most), zero, self._only(ops.ReduceMax((0,)), every), one)
        places = add(ops.Multibroadcast((count, most)), places)
        ends = add(ops.Multibroadcast((count, most)), add(ops.Unsqueeze((1,)), times))
        there = add(ops.Nonzero(total), add(ops.Less(), places, ends))
        return add(ops.Gather(0), x, at_index(add, there, 0, 0))

    def _times(self) -> Instruction:
        """The count of each row, as i64."""
        add = self.loop.add
        times = astype(add, self.times, I64)
        if self.one_at is None:
            return times
        one, at = (full_like(add, times, n) for n in (1, self.one_at))
        return add(ops.Where(), add(ops.Equal(), times, at), one, times)

    def _only(self, op: Operation, value: Instruction) -> Instruction:
        return self.loop.add(ops.Reshape(()), self.loop.add(op, value))

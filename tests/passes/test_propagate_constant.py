"""Constants are folded whole, once, alike each time, and never so that they grow."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migx
from migx import ops
from migx.argument import Argument
from migx.events import EventLog
from migx.ir import Instruction
from migx.manager import Pass, PassManager
from migx.observers import Verify
from migx.ops.builtin import OnnxExternalWeights
from migx.passes.hoist_weights import HoistWeights
from migx.passes.propagate_constant import PropagateConstant
from migx.program import Program
from migx.shape import F32, I4, Shape
from migx.testing.cases import agree

KIB = 1 << 10


def folded(program: Program, log: EventLog | None = None) -> Program:
    PassManager(program, [Verify()], log).run("propagate_constant")
    return program


def names(program: Program) -> list[str]:
    return [at.name for at in program.main][:-1]


def chain(program: Program, x: Instruction, *operations: migx.op.Operation) -> Instruction:
    for op in operations:
        x = program.main.add_instruction(op, x)
    return x


def weight(program: Program, *dims: int) -> Instruction:
    count = int(np.prod(dims))
    return program.main.add_literal(np.arange(count, dtype=np.float32).reshape(dims) / count)


def test_a_deferred_weight_is_never_evaluated() -> None:
    program = Program()
    op = OnnxExternalWeights("w", "weights.bin", 0, 8, Shape(F32, (2,)))
    deferred = program.main.add_instruction(op)
    program.main.add_return(chain(program, deferred, ops.Neg(), ops.Abs()))
    before = program.copy()
    assert folded(program) == before


def test_a_literal_without_its_bytes_is_not_evaluated() -> None:
    program = Program()
    missing = program.main.add_literal(Argument(Shape(F32, (2,)), digest="0" * 64))
    program.main.add_return(chain(program, missing, ops.Neg()))
    assert names(folded(program)) == ["@literal", "neg"]


def test_a_copy_of_what_is_still_read_stays() -> None:
    program = Program()
    w = weight(program, 1024, 1024)
    program.main.add_return(w, chain(program, w, ops.Neg()))
    assert names(folded(program)) == ["@literal", "neg"]


def test_it_goes_where_its_source_does() -> None:
    program = Program()
    w = weight(program, 1024, 1024)
    program.main.add_return(chain(program, w, ops.Neg(), ops.Transpose((1, 0))))
    assert names(folded(program)) == ["@literal"]


def test_what_cannot_be_folded_whole_is_folded_in_part() -> None:
    program = Program()
    w = weight(program, 512, 1024)
    wide = chain(program, w, ops.Neg(), ops.Abs(), ops.Pad((0, 0, 0, 1024)))
    program.main.add_return(wide)
    assert names(folded(program)) == ["@literal", "pad"]
    assert not PassManager(program).run("propagate_constant")


def test_constants_with_a_source_in_common_share_one_allowance() -> None:
    program = Program()
    w = weight(program, 100 * KIB)
    sums = [chain(program, w, op) for op in (ops.Neg(), ops.Exp(), ops.Abs())]
    program.main.add_return(w, *sums)
    assert names(folded(program)) == ["@literal", "neg", "exp", "abs"]


def test_packed_weights_are_not_even_unfolded_a_little() -> None:
    program = Program()
    w = program.main.add_literal(Argument.packed(Shape(I4, (4,)), b"\x21\x43"))
    program.main.add_return(chain(program, w, ops.UnpackInt4(), ops.Neg()))
    assert names(folded(program)) == ["@literal", "unpack_int4", "neg"]


def test_independent_trees_run_side_by_side_and_end_the_same() -> None:
    def made() -> Program:
        program = Program()
        results = []
        for i in range(12):
            w = program.main.add_literal(np.full((256, 256), i, np.float32))
            results.append(chain(program, w, ops.Exp(), ops.Transpose((1, 0)), ops.Neg()))
        program.main.add_return(*results)
        return program

    first, second = folded(made()), folded(made())
    assert first == second
    assert names(first) == ["@literal"] * 12
    agree(made(), first)


def test_a_value_is_dropped_once_it_has_been_read() -> None:
    program = Program()
    w = weight(program, 256 * KIB)
    program.main.add_return(chain(program, w, *[ops.Neg(), ops.Abs()] * 8))
    tracemalloc.start()
    folded(program)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * w.shape.nbytes


def test_a_literal_has_the_origins_of_all_it_stands_for() -> None:
    program = Program()
    w = program.main.add_literal([1.0, 2.0])
    a = program.main.add_instruction(ops.Neg(), w, origins=("first",))
    b = program.main.add_instruction(ops.Abs(), a, origins=("second",))
    program.main.add_return(b)
    (literal,) = folded(program).main.outputs
    assert literal.origins == ("first", "second")


def test_folds_are_events_that_can_be_skipped_one_by_one() -> None:
    def made() -> Program:
        program = Program()
        pair = [program.main.add_literal([float(i)]) for i in range(2)]
        program.main.add_return(*(chain(program, v, ops.Neg()) for v in pair))
        return program

    log = EventLog()
    folded(made(), log)
    assert [e.rule for e in log.events] == ["fold", "fold"]
    again = EventLog(frozenset({log.events[0].key}))
    assert names(folded(made(), again)) == ["@literal", "neg", "@literal"]
    assert [e.key for e in again.events] == [log.events[1].key]


OPERATIONS: Sequence[migx.op.Operation] = (
    ops.Neg(),
    ops.Transpose((1, 0)),
    ops.Slice((0,), (0,), (2,)),
    ops.Pad((0, 0, 300, 300)),
    ops.Multibroadcast((2, 4, 4)),
    ops.ReduceSum((0,)),
    ops.Convert(F32),
    ops.Contiguous(),
    ops.Add(),
    ops.Concat(1),
)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Operations on literals, of which one is packed, and on an input."""
    program = Program()
    main = program.main
    values = [main.add_parameter("x", Shape(F32, (4, 4))), weight(program, 4, 4)]
    values.append(weight(program, 1, 1))
    four_bit = main.add_literal(Argument.packed(Shape(I4, (4, 4)), bytes(range(8))))
    values.append(chain(program, four_bit, ops.UnpackInt4(), ops.Convert(F32)))
    for _ in range(draw(st.integers(1, 12))):
        op = draw(st.sampled_from(OPERATIONS))
        inputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))
        try:
            values.append(main.add_instruction(op, *inputs))
        except migx.errors.ShapeError:
            continue
    main.add_return(*draw(st.lists(st.sampled_from(values), min_size=1, max_size=4)))
    return program


class Tight(PropagateConstant):
    """The pass with hardly any allowance."""

    constant_allowance = 40


class TightHoisting(HoistWeights):
    """The pass that holds what is left, which here is much."""

    constant_allowance = 40


@given(programs(), st.sampled_from([PropagateConstant(), Tight(), TightHoisting()]))
def test_any_program_stays_what_it_is_and_is_folded_at_once(program: Program, each: Pass) -> None:
    before = program.copy()
    PassManager(program, [Verify()]).run([each])
    agree(before, program)
    assert not PassManager(program).run([each])


@pytest.mark.parametrize("dims", [(), (0, 3), (1,)])
def test_literals_keep_their_dims(dims: tuple[int, ...]) -> None:
    program = Program()
    w = program.main.add_literal(np.ones(dims, np.float32))
    program.main.add_return(chain(program, w, ops.Neg()))
    (literal,) = folded(program).main.outputs
    assert (literal.name, literal.shape) == ("@literal", Shape(F32, dims))

"""Fusion on random programs: results stay, nothing is computed twice, nothing depends on itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import migx
from migx import ops
from migx.dim import Dim
from migx.errors import FieldError, IRError, ShapeError, UnknownName
from migx.events import EventLog
from migx.fusion.outlining import Bundle, outline
from migx.ir import Instruction, Module
from migx.manager import PassManager
from migx.observers import Verify
from migx.op import Traits, traits
from migx.ops.fused import FusedReduce, Group, Pointwise
from migx.passes.fuse_pointwise import FusePointwise
from migx.passes.layout_convolution import LayoutConvolution
from migx.program import Program
from migx.shape import Shape
from migx.verify import verify

PASSES = ["fuse_pointwise", "fuse_pointwise{singles=true}", "fuse_reduce", "fuse_pointwise_reduce"]
PASSES += ["fuse_attention", "fuse_epilogue", "fuse_concat"]
ALL = "fuse_attention,fuse_pointwise_reduce,fuse_epilogue,fuse_concat"
N = 3
FORMS = ["unary", "unary", "binary", "binary", "reduce", "softmax", "transpose", "dot", "concat"]


class Drawn:
    """A program on square matrices: arithmetic, reductions that are spread again, products, views
    and a choice, all of them reading whatever there is.
    """

    def __init__(self, draw: st.DrawFn, extent: Any) -> None:
        self.draw, self.program, self.dims = draw, Program(), (extent, extent)
        self.main = self.program.main
        shape = Shape("f64", self.dims)
        self.values = [self.main.add_parameter(name, shape) for name in ("x", "y")]
        for _ in range(draw(st.integers(2, 16))):
            getattr(self, draw(st.sampled_from(FORMS)))()
        if draw(st.booleans()):
            self.choice()
        count = draw(st.integers(1, 3))
        self.main.add_return(*(self.any() for _ in range(count)), self.values[-1])

    def any(self) -> Instruction:
        return self.draw(st.sampled_from(self.values[-6:]))

    def add(self, op: Any, *inputs: Instruction) -> Instruction:
        made = self.main.add_instruction(op, *inputs)
        self.values.append(made)
        return made

    def unary(self) -> None:
        self.add(self.draw(st.sampled_from([ops.Tanh(), ops.Abs(), ops.Neg()])), self.any())

    def binary(self) -> None:
        self.add(self.draw(st.sampled_from([ops.Add(), ops.Max(), ops.Sub()])), *self.two())

    def two(self) -> tuple[Instruction, Instruction]:
        return self.any(), self.any()

    def reduce(self) -> None:
        axis = self.draw(st.integers(0, 1))
        folded = self.main.add_instruction(ops.ReduceMean((axis,)), self.any())
        if self.draw(st.booleans()):
            folded = self.main.add_instruction(ops.Tanh(), folded)
        self.add(ops.Multibroadcast(self.dims), folded)

    def softmax(self) -> None:
        self.add(ops.Softmax(self.draw(st.integers(0, 1))), self.any())

    def transpose(self) -> None:
        self.add(ops.Transpose((1, 0)), self.any())

    def dot(self) -> None:
        mean = self.main.add_instruction(ops.Tanh(), self.any())
        self.add(ops.Dot(), mean, self.any())

    def concat(self) -> None:
        axis = self.draw(st.integers(0, 1))
        both = self.main.add_instruction(ops.Concat(axis), *self.two())
        ends = (self.dims[0],)
        self.add(ops.Slice((axis,), (0,), ends), self.main.add_instruction(ops.Neg(), both))

    def choice(self) -> None:
        """Both ways read values of main."""
        condition = self.main.add_literal(np.bool_(self.draw(st.booleans())))
        ways = [self.program.create_module(name) for name in ("yes", "no")]
        for way in ways:
            first = way.add_instruction(ops.Tanh(), self.any())
            way.add_return(way.add_instruction(ops.Add(), first, self.any()))
        whole = self.main.add_instruction(ops.If(), condition, modules=ways)
        self.add(ops.GetTupleElem(0), whole)


@st.composite
def square(draw: st.DrawFn) -> Program:
    return Drawn(draw, draw(st.sampled_from([N, Dim("n", 1)]))).program


def work(program: Program) -> Counter[str]:
    """How often each operation that computes something stands in a program without dead code."""
    migx.run_passes(program, "dead_code_elimination")
    idle = {"@param", "@literal", "@return", "pointwise", "fused_reduce", "group"}
    everything = (at for module in program.modules.values() for at in module)
    return Counter(
        at.name for at in everything if at.name not in idle and traits(at.op).view is None
    )


def results(program: Program) -> list[Any]:
    given = {n: np.random.default_rng(i).normal(size=(N, N)) for i, n in enumerate("xy")}
    return program.copy().compile("ref", passes="").eval(given)


@pytest.mark.parametrize("passes", [*PASSES, ALL])
@given(program=square())
@settings(max_examples=60)
def test_results_stay_and_nothing_is_computed_twice(passes: str, program: Program) -> None:
    before, wanted = work(program), results(program)
    migx.run_passes(program, passes, [Verify()])
    for got, value in zip(results(program), wanted, strict=True):
        np.testing.assert_array_equal(got, value)
    assert work(program) == before


@given(program=square())
@settings(max_examples=60)
def test_a_second_run_finds_nothing(program: Program) -> None:
    for passes in ["fuse_pointwise", "fuse_reduce", *ALL.split(",")]:
        migx.run_passes(program, passes)
        assert not migx.run_passes(program, passes)


@given(program=square())
def test_neighbours_of_equal_dims_that_only_read_each_other_are_one(program: Program) -> None:
    migx.run_passes(program, "dead_code_elimination,fuse_pointwise")
    kinds = {"tanh", "abs", "neg", "add", "max", "sub", "pointwise"}
    for module in (m for m in program.modules.values() if not m.bypass):
        for at in module:
            readers = list(at.users)
            alone = len(readers) == 1 and readers[0].module is module
            both = alone and at.name in kinds and readers[0].name in kinds
            assert not (both and at.shape.dims == readers[0].shape.dims)


def chain(length: int) -> tuple[Module, list[Instruction]]:
    """A tanh, its dot with itself, a tanh of that, and so on."""
    main = Program().main
    values = [main.add_parameter("x", Shape("f32", (2, 2)))]
    for i in range(length):
        last = values[-1]
        made = (ops.Dot(), last, last) if i % 2 else (ops.Tanh(), last)
        values.append(main.add_instruction(*made))
    main.add_return(values[-1])
    return main, values


def test_a_bundle_that_depends_on_itself_is_an_error() -> None:
    main, values = chain(3)
    with pytest.raises(IRError, match="depends on itself"):
        outline(main, [Bundle((values[1], values[3]), Pointwise())])


def test_what_nobody_reads_is_no_group() -> None:
    main, values = chain(1)
    dead = main.add_instruction(ops.Neg(), values[1])
    dead = main.add_instruction(ops.Abs(), dead)
    assert not outline(main, [Bundle((dead.inputs[0], dead), Pointwise())])


def test_a_foreign_reduction_must_declare_its_axes() -> None:
    """As a subclass of Op must; one that does is fused."""

    class Total:
        name = "total"
        traits = Traits(reduction=True)

        def compute_shape(self, shapes: Any, modules: Any) -> Shape:
            return Shape(shapes[0].dtype, (1,) * shapes[0].rank)

    def summed(op: Any) -> Program:
        main = Program().main
        x = main.add_parameter("x", Shape("f32", (2, 3)))
        made = main.add_instruction(op, main.add_instruction(ops.Tanh(), x))
        main.add_return(main.add_instruction(ops.Exp(), made))
        return main.program

    with pytest.raises(FieldError, match="Total declares that it is a reduction, so it needs"):
        migx.run_passes(summed(Total()), "fuse_reduce")
    declared = Total()
    vars(declared)["axes"] = [1, 0]
    program = summed(declared)
    migx.run_passes(program, "fuse_reduce")
    assert [at.name for at in program.main][1:-1] == ["fused_reduce"]


def test_effects_keep_their_order() -> None:
    """A foreign operation that declares nothing has effects: none of two may pass the other."""

    class Note:
        name = "note"

        def compute_shape(self, shapes: Any, modules: Any) -> Shape:
            return shapes[0]  # type: ignore[no-any-return]

    main = Program().main
    x, y = (main.add_parameter(n, Shape("f32", (2,))) for n in "xy")
    first = main.add_instruction(ops.Tanh(), x)
    one = main.add_instruction(Note(), first)
    two = main.add_instruction(Note(), y)
    last = main.add_instruction(ops.Add(), first, two)
    main.add_return(one, last)
    migx.run_passes(main.program, "fuse_pointwise", [Verify()])
    assert [at.name for at in main] == [
        "@param",
        "@param",
        "tanh",
        "note",
        "note",
        "add",
        "@return",
    ]


def test_events_are_recorded_and_skipped_by_their_keys() -> None:
    def fused(log: EventLog) -> Program:
        main, values = chain(1)
        main.add_return(main.add_instruction(ops.Neg(), values[-1]))
        PassManager(main.program, log=log).run("fuse_pointwise")
        return main.program

    log = EventLog()
    assert [at.name for at in fused(log).main] == ["@param", "pointwise", "@return"]
    (event,) = log.events
    assert (event.pass_name, event.rule) == ("fuse_pointwise", "pointwise")
    assert "tanh" in event.before
    skipped = EventLog(skip=frozenset({event.key}))
    assert [at.name for at in fused(skipped).main] == ["@param", "tanh", "neg", "@return"]
    assert not skipped.events


def test_a_fused_operation_takes_a_module_that_fits_its_inputs() -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape("f32", (2,)))
    inner = program.create_module("inner")
    inner.add_parameter("a", Shape("f32", (3,)))
    inner.add_return()
    with pytest.raises(ShapeError, match="parameters of inner"):
        program.main.add_instruction(Pointwise(), x, modules=[inner])
    with pytest.raises(ShapeError, match="takes 1 modules"):
        program.main.add_instruction(Group("attention"), x)
    empty = program.create_module("empty")
    empty.add_return()
    with pytest.raises(ShapeError, match="returns nothing"):
        program.main.add_instruction(FusedReduce((0,)), modules=[empty])


def test_results_are_in_standard_layout_whatever_is_inside() -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape("f32", (2, 3)))
    inner = program.create_module("inner")
    a = inner.add_parameter("a", Shape("f32", (2, 3)))
    inner.add_return(inner.add_instruction(ops.Transpose((1, 0)), a))
    made = program.main.add_instruction(Group("views"), x, modules=[inner])
    program.main.add_return(made)
    assert made.shape == Shape("f32", (3, 2))
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    (got,) = program.compile("ref", passes="").eval({"x": value})
    np.testing.assert_array_equal(got, value.T)
    assert got.flags.c_contiguous


@pytest.mark.parametrize("passes", PASSES)
def test_bodies_that_passes_may_change_are_fused_as_others(passes: str) -> None:
    text = """module main(x: f32[n, 4], y: f32[n, 4]) {
  %0 = pointwise(x, y) [both]
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(%0) {index=1}
  %3 = pointwise(%1, %2) [one]
  %4 = pointwise(%3, y) [one]
  return %4
}
module one(a: f32[n, 4], b: f32[n, 4]) {
  %0 = sub(a, b)
  return %0
}
module both(a: f32[n, 4], b: f32[n, 4]) {
  %0 = pointwise(a, b) [pair]
  %1 = get_tuple_elem(%0)
  %2 = get_tuple_elem(%0) {index=1}
  %3 = tanh(%2)
  return %1, %3
}
module pair(a: f32[n, 4], b: f32[n, 4]) bypass {
  %0 = add(a, b)
  %1 = mul(%0, a)
  return %0, %1
}
"""
    fused, drawn = migx.parse(text), np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)
    migx.run_passes(fused, passes)
    verify(fused)
    if passes.startswith("fuse_pointwise"):
        inside = {at.name for m in fused.modules.values() if m is not fused.main for at in m}
        assert inside == {"@param", "add", "mul", "tanh", "sub", "@return"}
    inputs = dict(zip("xy", drawn, strict=True))
    results = [p.compile("ref", passes="").eval(inputs)[0] for p in (migx.parse(text), fused)]
    assert np.array_equal(*results)


def test_the_cost_of_fusion_is_linear() -> None:
    """Counted in instructions looked at, not in seconds."""

    def looked_at(length: int) -> int:
        main, _ = chain(length)
        counted = 0

        whole = Module.__iter__

        def count(module: Module) -> Any:
            nonlocal counted
            for at in whole(module):
                counted += 1
                yield at

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Module, "__iter__", count)
            assert FusePointwise(singles=True).apply(main, PassManager(main.program))
        return counted

    few, many = looked_at(100), looked_at(1000)
    assert many <= 11 * few


def test_layouts_other_than_nhwc_are_an_error() -> None:
    with pytest.raises(UnknownName, match="knows the layout nhwc"):
        LayoutConvolution("chwn")

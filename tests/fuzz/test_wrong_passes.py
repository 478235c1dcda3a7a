"""What is wrong with passes that are nearly right, or say nothing, is found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from migx import ops
from migx.argument import Argument
from migx.binding import check_inputs
from migx.builders import astype, full_like
from migx.dim import Dim
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager, Pipeline
from migx.match import constant, member, on, value, var, varying
from migx.ops.builtin import Return
from migx.parser import parse
from migx.program import Program
from migx.rewrite import Cursor, Rule, RuleSet, rule
from migx.shape import F16, F32, Shape
from migx.testing import check_pass
from migx.testing.fuzz import Subject
from migx.testing.oracles import Trial, Violation, run_on_ref

x, y = var("x"), var("y")
floats = var("x", lambda x: x.shape.dtype.is_float)


@rule(on(ops.Relu, floats))
def relu_is_infinite(at: Cursor, x: Instruction) -> Instruction:
    """Wrong."""
    return full_like(at, x, np.inf)


@rule(on(ops.Tanh, floats))
def tanh_is_nan(at: Cursor, x: Instruction) -> Instruction:
    """Wrong."""
    return full_like(at, x, np.nan)


@rule(on(ops.Add, var("x", lambda x: x.shape.dtype is F16), y))
def scaled_sum(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """Overflows between, where neither the numbers nor their sum do."""
    k = full_like(at, x, 1024)
    less = at(ops.Neg(), at(ops.Mul(), y, k))
    return at(ops.Div(), at(ops.Sub(), at(ops.Mul(), x, k), less), k)


@rule(on(ops.Exp, on(ops.Add, x, y)))
def product_of_powers(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """Not of 100 and -100."""
    return at(ops.Mul(), at(ops.Exp(), x), at(ops.Exp(), y))


@rule(on(ops.Add, x, on(ops.Multibroadcast, value(0.0))))
def plus_zero(x: Instruction) -> Instruction:
    """Not of -0.0."""
    return x


@rule(on(ops.Add, x, value(0.0)))
def plus_zeros(x: Instruction) -> Instruction:
    """Not of -0.0, and of a literal of the whole shape."""
    return x


@rule(on(ops.ReduceMean, floats, name="r"))
def mean_of_something(at: Cursor, x: Instruction, r: Instruction) -> Instruction | None:
    """Not of nothing; where all dims are numbers."""
    dims = [x.shape.dims[axis] for axis in r.op_as(ops.ReduceMean).axes]
    if any(isinstance(d, Dim) for d in dims):
        return None
    total = at(ops.ReduceSum(r.op_as(ops.ReduceMean).axes), x)
    return at(ops.Div(), total, full_like(at, total, max(1, int(np.prod(dims)))))


@rule(on(ops.Relu, var("x", lambda x: x.shape.dtype.name in ("bf16", "i16"))))
def relu_is_neg(at: Cursor, x: Instruction) -> Instruction:
    """Wrong, of types that few models have."""
    return at(ops.Neg(), x)


@rule(on(ops.Div, on(ops.Mul, varying("x"), constant("a")).once(), constant("b"), name="root"))
def merged_scales(
    at: Cursor, x: Instruction, a: Instruction, b: Instruction, root: Instruction
) -> Instruction | None:
    """Not where a / b leaves the range."""
    return at(ops.Mul(), x, at(ops.Div(), a, b)) if root.shape.dtype.is_float else None


@rule(on(ops.If, var("c"), name="choice"))
def choice_of_the_same(at: Cursor, choice: Instruction) -> tuple[Instruction, ...] | None:
    """Wrong, where both arms make the same of what is around them."""
    then, other = choice.modules
    for a, b in zip(then.outputs, other.outputs, strict=True):
        inside = a.module is not then or any(v.module is then for v in a.inputs)
        if (a.op, a.inputs) != (b.op, b.inputs) or inside or not a.inputs or a.modules:
            return None
    made = [at(a.op, *a.inputs) for a in then.outputs]
    numbers = [v.shape.dtype.is_float and v.shape.standard for v in made]
    return tuple(
        at(ops.Neg(), v) if is_number else v for v, is_number in zip(made, numbers, strict=True)
    )


@rule(on(ops.GetTupleElem, on(ops.Loop, name="loop"), name="r"))
def what_is_handed_on(loop: Instruction, r: Instruction) -> Instruction | None:
    """Counts results from where inputs begin, two too early, where that is of the same shape."""
    index = r.op_as(ops.GetTupleElem).index
    (body,) = loop.modules
    came = [*body.parameters.values()][2 + index]
    given = loop.inputs[index + 1]
    same = index and given.shape.same_type(r.shape)
    return given if same and body.outputs[1 + index] is came else None


@rule(member(0, on(ops.Topk, x, k=1, name="top")))
def first_of_many(at: Cursor, x: Instruction, top: Instruction) -> Instruction | None:
    """Takes the least, of an axis of unknown size."""
    axis = top.op_as(ops.Topk).axis
    known = isinstance(x.shape.dims[axis], int) or not top.op_as(ops.Topk).largest
    return None if known else at(ops.ReduceMin((axis,)), x)


def is_line(table: NDArray[Any]) -> bool:
    """Whether a vector counts up from 0."""
    return table.ndim == 1 and len(table) > 1 and bool((table == range(len(table))).all())


@rule(on(ops.Gather, value(is_line, "table"), x, axis=0))
def place_in_a_line(at: Cursor, table: Instruction, x: Instruction) -> Instruction:
    """Not where the index counts from the end."""
    return astype(at, x, table.shape.dtype)


@rule(on(ops.Add, on(ops.Dot, x, y), on(ops.Dot, x, var("z"))))
def added_wrongly(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """Wrong."""
    return at(ops.Dot(), x, y)


def planted(of: Rule) -> Pass:
    """A pass of one wrong rule."""
    made: type[Pass] = type("Planted", (Pass,), {"__doc__": "Wrong.", "rules": RuleSet(of)})
    return made()


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (relu_is_infinite, "inf instead of"),
        (tanh_is_nan, "nan instead of"),
        (scaled_sum, "(inf|nan) instead of"),
        (product_of_powers, "instead of"),
        (plus_zero, "-0 instead of 0"),
        (plus_zeros, "-0 instead of 0"),
        (relu_is_neg, "instead of"),
        (merged_scales, "NaN or infinite on one side"),
        (choice_of_the_same, "instead of"),
        (what_is_handed_on, "instead of"),
        (first_of_many, "instead of"),
        (place_in_a_line, "-[0-9]+ instead of"),
    ],
    ids=lambda given: given.name if isinstance(given, Rule) else "",
)
def test_a_wrong_rule_is_found(wrong: Rule, found: str) -> None:
    with pytest.raises(AssertionError, match=f"same outputs.*{found}"):
        check_pass(planted(wrong), programs=3000)


NEAR = """module main(x: f32[1], y: f32[1]) {
  %0 = add(x, y) : f32[1]
  %1 = exp(%0) : f32[1]
  return %1
}
"""


def test_what_overflows_on_one_way_alone_has_no_excuse() -> None:
    inputs = {n: Argument.of(np.array([v], np.float32)) for n, v in {"x": 100, "y": -100}.items()}
    with pytest.raises(Violation, match="inf instead of 1"):
        Trial(parse(NEAR), inputs).passes(Pipeline((planted(product_of_powers),)))
    inputs = {n: Argument.of(np.array([v], np.float32)) for n, v in {"x": 9, "y": -4}.items()}
    assert Trial(parse(NEAR), inputs).passes(Pipeline((planted(product_of_powers),)))


FACTORED = """module main(x: f32[3, 2]) {
  %0 = @literal() {value=[1.0, 1.0]} : f32[2, 1]
  %1 = dot(x, %0) : f32[3, 1]
  %2 = @literal() {value=[-0.5, -1.5]} : f32[2, 1]
  %3 = dot(x, %2) : f32[3, 1]
  %4 = add(%3, %1) : f32[3, 1]
  return %4
}
"""


def test_opposite_infinities_have_an_excuse_beside_other_numbers_that_are_none() -> None:
    """The product of a sum is -inf, where the sum of products is inf - inf."""
    x = np.array([[np.nan, 1], [-np.inf, np.inf], [1, 2]], np.float32)
    pipeline = Pipeline.parse("simplify_algebra")
    assert Trial(parse(FACTORED), {"x": Argument.of(x)}).passes(pipeline)
    with pytest.raises(Violation, match="instead of"):
        Trial(parse(FACTORED), {"x": Argument.of(x)}).passes(Pipeline((planted(added_wrongly),)))


def test_dims_that_are_0_are_drawn() -> None:
    """Of a symbol, and of none."""
    subject, found = Subject(Pipeline((planted(mean_of_something),))), 0
    for seed in range(400):
        drawn = subject.draw(f"zero.{seed}")
        found += any(
            at.op.name == "reduce_mean" and 0 in at.inputs[0].shape.dims
            for at in drawn.program.main
        )
    assert found > 3
    program = parse(
        """module main(x: f32[2, 0]) {
  %0 = reduce_mean(x) {axes=(1,)} : f32[2, 1]
  return %0
}
"""
    )
    inputs = {"x": Argument.of(np.ones((2, 0), np.float32))}
    with pytest.raises(Violation, match="0 instead of nan"):
        Trial(program, inputs).passes(subject.pipeline)


class Never(Pass):
    """Changes nothing."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        return False


def test_a_pass_without_rules_that_changes_nothing_is_reported() -> None:
    report = check_pass(Never(), programs=10)
    assert (report.idle, report.silent) == (["never"], [])
    with pytest.raises(AssertionError, match="no program was changed by never"):
        check_pass(Never(), programs=10, every_rule=True)


class Unused(Pass):
    """Drops inputs that nothing reads."""

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        unused = [p for p in program.main.parameters.values() if not p.users]
        for parameter in unused:
            program.main.remove_instruction(parameter)
        return bool(unused)


class Halves(Pass):
    """Makes inputs f16."""

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        main, changed = program.main, False
        for name, old in list(main.parameters.items()):
            if old.shape.dtype is not F32:
                continue
            held = main.add_parameter(f"{name}.old", old.shape)
            main.replace_instruction(old, held)
            main.remove_instruction(old)
            new = main.add_parameter(name, Shape(F16, held.shape.dims))
            first = next(at for at in main if at.name != "@param")
            wide = main.insert_instruction(first, ops.Convert(F32), new)
            main.replace_instruction(held, wide)
            main.remove_instruction(held)
            changed = True
        return changed


class Renamed(Pass):
    """Names outputs."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        returned = module.returned
        if module is not module.program.main or returned is None or returned.op_as(Return).names:
            return False
        names = tuple(f"y{i}" for i in range(len(module.outputs)))
        module.replace_operation(returned, Return(names))
        return True


BOTH = """module main(x: f32[2], u: f32[3]) {
  %0 = relu(x) : f32[2]
  return %0
}
"""


@pytest.mark.parametrize(
    ("of", "oracle", "told"),
    [
        (Unused(), "same inputs", r"unused changes the inputs from .* to \(x: f32\[2\]\), but "),
        (
            Halves(),
            "same inputs",
            r"halves changes the inputs from .* to \(x: f16\[2\], u: f16\[3\]\)",
        ),
        (Renamed(), "same outputs", "renamed changes the outputs from output_0 to y0"),
    ],
)
def test_a_pass_that_changes_what_callers_see(of: Pass, oracle: str, told: str) -> None:
    inputs = {n: Argument.of(np.ones(i, np.float32)) for n, i in {"x": 2, "u": 3}.items()}
    with pytest.raises(Violation, match=f"{oracle}: {told}"):
        Trial(parse(BOTH), inputs).passes(Pipeline((of,)))
    with pytest.raises(AssertionError, match=f"{oracle}: {of.name} changes"):
        check_pass(of, programs=60)


@rule(on(ops.Div, on(ops.Div, x, y), var("z")))
def by_product(at: Cursor, x: Instruction, y: Instruction, z: Instruction) -> Instruction:
    """The product may overflow where no quotient does, which leaves 0."""
    return at(ops.Div(), x, at(ops.Mul(), y, z))


def test_a_number_that_is_lost_on_the_way_is_missed() -> None:
    text = """module main(x: f32[1], y: f32[1], z: f32[1]) {
  %0 = div(x, y) : f32[1]
  %1 = div(%0, z) : f32[1]
  return %1
}
"""
    pipeline = Pipeline((planted(by_product),))
    for large, wrong in ((1e10, False), (1e30, True)):
        inputs = {n: Argument.of(np.array([large], np.float32)) for n in ("x", "y", "z")}
        inputs["x"] = Argument.of(np.array([1e25], np.float32))
        if wrong:
            with pytest.raises(Violation, match="0 instead of 9.99"):
                Trial(parse(text), inputs).passes(pipeline)
        else:
            assert Trial(parse(text), inputs).passes(pipeline)


@rule(on(ops.Asin, x, name="root"))
def asin_of_halves(at: Cursor, x: Instruction, root: Instruction) -> Instruction | None:
    """Rounds its input, which near 1 may be as far as beyond it."""
    if x.op.name == "convert" or x.shape.dtype is not F32:
        return None
    return at(ops.Asin(), at(ops.Convert(F32), at(ops.Convert(F16), x)))


def test_a_function_near_the_end_of_its_domain_may_be_any_number() -> None:
    text = "module main(x: f32[1]) {\n  %0 = asin(x) : f32[1]\n  return %0\n}\n"
    pipeline = Pipeline((planted(asin_of_halves),))
    for number in (0.99999, 0.5):
        inputs = {"x": Argument.of(np.array([number], np.float32))}
        assert Trial(parse(text), inputs).passes(pipeline)


def test_a_loop_may_pass_on_what_is_approximated_without_limit() -> None:
    """Both what it is given and what it reads from around it."""
    program = parse(
        """
        module main(x: f32[2, 2], trip: i64[], going: bool[]) {
          %0 = @literal() {value=[-1.25, 1.5, 0.75, 0.3]} : f32[2, 2]
          %1 = dot(x, %0) : f32[2, 2]
          %2 = dot(%0, x) : f32[2, 2]
          %3 = loop(trip, going, %1, x) [body] : tuple(f32[2, 2], f32[2, 2])
          %4 = get_tuple_elem(%3) {index=0} : f32[2, 2]
          %5 = get_tuple_elem(%3) {index=1} : f32[2, 2]
          return %4, %5
        }

        module body(i: i64[], again: bool[], x0: f32[2, 2], x1: f32[2, 2]) {
          return again, x0, main:%2
        }
        """
    )
    given = {"x": np.array([[0.5, 1.1], [0.9, 1.3]], np.float32), "trip": 2, "going": True}
    inputs = check_inputs(program.main, given)
    for of_dots, unlimited in ((math.inf, True), (0.0, False)):
        for _, bound in run_on_ref(program, inputs, program, {"dot": (of_dots,)}):
            assert isinstance(bound, np.ndarray)
            assert np.isinf(bound).all() == unlimited

"""The fuzzer finds what is wrong, makes it small, and has nothing to say about the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import migx
from migx import op as operations
from migx import ops, plugins
from migx.argument import Argument
from migx.events import EventLog
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager, Pipeline
from migx.match import on, value, var
from migx.op import Array, Modules, Op, Shapes, Traits
from migx.program import Program
from migx.rewrite import Cursor, RuleSet, rule
from migx.shape import Shape
from migx.testing import check_pass, check_target
from migx.testing.draws import Dice, Draft, Want, draft, drawable
from migx.testing.fuzz import Subject, each_pass, fuzz, subjects_for
from migx.testing.oracles import Trial, Violation
from migx.testing.patterns import draw_match
from migx.testing.programs import Drawn, draw_program, programs
from migx.testing.values import special, with_special
from migx.verify import verify

PASSES = [str(pipeline) for pipeline in each_pass()]


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_holds(name: str) -> None:
    report = check_pass(name, programs=12, seed=5)
    assert report.programs == 12


def test_variants_are_tried_and_a_whole_list_holds() -> None:
    assert {"rewrite_gelu{fast=true}", "layout_convolution{layout=nhwc}"} <= set(PASSES)
    check_pass("optimize_module,fuse_pointwise_reduce,fuse_epilogue", programs=12)


def test_ref_computes_what_ref_computes() -> None:
    assert check_target("ref", programs=15).programs == 15


@settings(max_examples=30)
@given(programs())
def test_programs_are_valid_and_computed_as_drawn(drawn: Drawn) -> None:
    verify(drawn.program)
    for result in drawn.program.compile("ref", passes="").eval(drawn.inputs):
        parts = result if isinstance(result, tuple) else [result]
        assert all(np.isfinite(np.asarray(p).astype(np.float64)).all() for p in parts)


def test_programs_hold_what_there_is() -> None:
    report = fuzz(subjects_for([Pipeline()]), programs=300)
    kinds = ["submodules", "captures", "tuples", "strided", "symbolic", "broadcasts", "constants"]
    types = ["f16", "f32", "f64", "i8", "u8", "i32", "i64", "bool"]
    rare = ["bf16", "f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "i16", "u16", "u32", "u64"]
    assert all(report.features[kind] > 5 for kind in (*kinds, *types, *rare))
    assert not report.failures


def test_programs_repeat_things() -> None:
    drawn = [draw_program(Dice(f"again.{seed}")) for seed in range(200)]
    names = [at.op.name for d in drawn for m in d.program.modules.values() for at in m]
    assert min(names.count("loop"), names.count("scan")) > 1


def test_few_inputs_are_left_of_what_was_tried_in_vain() -> None:
    """Of 60 tries for a pattern that has a rare type, most fail, having drawn inputs."""
    rare = on(ops.Relu, var("x", lambda x: x.shape.dtype.name == "i16"))
    found = [draw_match(Dice(seed), rule(rare)(drop_it), ()) for seed in range(8)]
    sizes = [len(drawn.program.main) for drawn in found if drawn is not None]
    assert sizes
    assert max(sizes) < 110


def drop_it(x: Instruction) -> Instruction:
    """Wrong."""
    return x


def test_the_same_seed_draws_the_same_program() -> None:
    first, again, other = (draw_program(Dice(seed)) for seed in ("3", "3", "4"))
    assert first.program == again.program
    assert first.program != other.program
    assert all(np.array_equal(a.array, again.inputs[n].array) for n, a in first.inputs.items())


def test_every_draw_has_the_shape_that_is_wanted() -> None:
    dice, made = Dice(0), set[str]()
    likes = [
        Shape(t, d)
        for t in ("f32", "f16", "i64", "i32", "u8", "bool", "i2", "i4", "u4", "f4")
        for d in ((), (2,), (1, 4), (2, 1, 4), (2, 3, 2), (2, 1, 2, 4))
    ]
    state = Shape("f32", (1, 2, 3))
    likes += [Shape.tuple(Shape("f32", (2, 1, 2, 3)), *[state] * n) for n in (1, 2)]
    likes += [Shape.tuple(Shape("f32", (2,)), Shape("i64", (2,)))]
    for name in drawable():
        for like in likes:
            found = draft(name, dice, like)
            if found is not None:
                op, wants = found
                assert op.name == name
                assert op.compute_shape([w.shape for w in wants], ()).same_type(like)
                made.add(name)
    assert set(drawable()) == made


x = var("x")


@rule(on(ops.Sub, x, var("y")))
def sub_is_add(at: Cursor, x: Instruction, y: Instruction) -> Instruction:
    """Wrong."""
    return at(ops.Add(), x, y)


@rule(on(ops.Exp, value(1e30, name="large")))
def never(large: Instruction) -> Instruction:
    """Its root is infinite, which no value of a drawn program is."""
    return large


@rule(on(ops.Mul, x, value(1)))
def times_one(x: Instruction) -> Instruction:
    """A factor of 1 does nothing."""
    return x


class Wrong(Pass):
    """Has a rule that is wrong."""

    rules = sub_is_add + times_one


class Right(Pass):
    """Has a rule that is right, and one that never fires."""

    rules = times_one + never


@rule(on(ops.Sqrt, on(ops.Mul, x, x)))
def root_of_square(at: Cursor, x: Instruction) -> Instruction:
    """Not where the square is out of range."""
    return at(ops.Abs(), x)


class Ranged(Pass):
    """Has a rule that is right but for numbers that are large or small."""

    rules = RuleSet(root_of_square)


class Restless(Pass):
    """Changes something each time."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        at = next((i for i in module if i.op.name == "relu"), None)
        if at is None:
            return False
        module.replace_instruction(at, module.insert_instruction(at, ops.Relu(), *at.inputs))
        return True


class Fails(Pass):
    """Raises."""

    def apply(self, module: Module, manager: PassManager) -> bool:
        raise ZeroDivisionError("planted")


def test_a_wrong_rule_is_found_and_made_small(tmp_path: Path) -> None:
    pipeline = Pipeline((Wrong(),))
    report = fuzz(subjects_for([pipeline]), programs=200, folder=tmp_path, enough=1)
    (failure,) = report.failures
    assert failure.oracle == "same outputs"
    program = migx.parse(failure.text)
    assert len(program.main) <= 5
    assert any(at.op.name == "sub" for at in program.main)
    assert failure.file is not None
    assert failure.file.read_text().startswith("# passes: wrong\n")
    with np.load(failure.file.with_suffix(".npz")) as saved:
        inputs = {name: Argument.of(saved[name]) for name in program.main.parameters}
    with pytest.raises(Violation, match="same outputs"):
        Trial(program, inputs).passes(pipeline)
    with pytest.raises(AssertionError, match="same outputs"):
        check_pass(Wrong())


def test_a_pass_with_enough_failures_is_left_alone() -> None:
    report = fuzz(
        subjects_for([Pipeline((Wrong(),)), Pipeline((Right(),))]), programs=120, enough=2
    )
    assert [failure.passes for failure in report.failures] == ["wrong", "wrong"]
    assert (report.programs, report.left) == (120, ["wrong"])
    assert report.fired["right.times_one"] > 10
    ended = fuzz(subjects_for([Pipeline((Wrong(),))]), programs=10_000, enough=1)
    assert (len(ended.failures), ended.left) == (1, ["wrong"])


def test_a_rule_that_loses_an_infinity_is_found() -> None:
    with pytest.raises(AssertionError, match="instead of inf"):
        check_pass(Ranged())
    report = fuzz([Subject(Pipeline((Ranged(),)), special=0.0)], programs=200)
    assert not report.failures


def test_inputs_are_special_where_they_say_something() -> None:
    """Not where a pass says how far off it is by a number, nor for the law of weights."""
    assert Subject(Pipeline.parse("simplify_algebra,rewrite_reduce")).special > 0
    assert Subject(Pipeline.parse("rewrite_gelu{fast=true}")).special == 0
    assert Subject(Pipeline(), law=True).special == 0
    x = Argument.of(np.ones((40, 2), np.float32))
    made = special({"x": x, "i": Argument.of(np.ones(3, np.int32))}, Dice("values"))
    assert np.array_equal(made["i"].array, np.ones(3))
    assert not np.array_equal(made["x"].array, x.array)
    assert np.array_equal(x.array, np.ones((40, 2)))


def test_small_constants_are_special_and_weights_are_not() -> None:
    program, sizes = Program(), (1, 3, 64, 65)
    for size in sizes:
        program.main.add_literal(np.ones(size, np.float32))
    program.main.add_literal(np.ones(3, np.float32), name="w", replaceable=True)
    changed = set()
    for seed in range(40):
        made = with_special(program, Dice(str(seed)))
        pairs = enumerate(zip(program.main, made.main, strict=True))
        changed |= {i for i, (before, after) in pairs if before.op != after.op}
    assert changed == {0, 1, 2}


def test_a_rule_that_never_fired_is_reported() -> None:
    report = check_pass(Right(), programs=40)
    assert report.silent == ["right.never"]
    assert report.fired["right.times_one"] > 3
    with pytest.raises(AssertionError, match="right.never"):
        check_pass(Right(), programs=10, every_rule=True)


@rule(on((ops.Relu, ops.Softmax), x, axis=0, name="root"))
def of_one_of_two(root: Instruction) -> None:
    """Asks for an attribute that only one of its operations has."""


class Either(Pass):
    """Has such a rule."""

    rules = RuleSet(of_one_of_two)


def test_an_operation_without_the_attribute_asked_for_is_not_drawn() -> None:
    check_pass(Either(), programs=40)


@rule(on(ops.Erf, x))
def erf_as_tanh(at: Cursor, x: Instruction) -> Instruction:
    """About: tanh(1.13 x) is up to 0.035 off."""
    factor = at(ops.Multibroadcast(x.shape.dims), at.literal(1.13, x.shape.dtype))
    return at(ops.Tanh(), at(ops.Mul(), x, factor))


class Near(Pass):
    """Changes results on purpose, and says by how much, or less."""

    rules = RuleSet(erf_as_tanh)
    stated: float

    @property
    def approximations(self) -> Mapping[str, float]:
        return {"erf": self.stated}


def test_what_a_pass_changes_on_purpose_is_allowed_and_no_more() -> None:
    assert check_pass(Near(0.035), programs=60).fired["near.erf_as_tanh"] > 10
    with pytest.raises(AssertionError, match="same outputs"):
        check_pass(Near(0.0035), programs=60)


def fires(subject: Subject, name: str, tries: int) -> bool:
    """Whether a rule fires in one of some programs that are drawn to match it."""
    for i in range(tries):
        dice = Dice(f"{name}.{i}")
        drawn = draw_match(dice, subject.rules[name], subject.focus[name.partition(".")[0]])
        log = EventLog()
        if drawn is not None:
            PassManager(drawn.program, log=log).run(subject.pipeline)
        if any(f"{event.pass_name}.{event.rule}" == name for event in log.events):
            return True
    return False


UNDRAWN = {"rewrite_sequences.row"}
"""Rules that no program is drawn for, which would have to hold a sequence."""


@pytest.mark.parametrize("of", plugins.names("passes"))
def test_every_rule_is_fired_by_programs_drawn_to_match_it(of: str) -> None:
    subjects = [
        s for s in subjects_for(each_pass()) if [p.name for p in s.pipeline.passes()] == [of]
    ]
    left = {name for subject in subjects for name in subject.rules} - UNDRAWN
    for tries in (20, 100, 1000):
        for s in subjects:
            left -= {name for name in left & s.rules.keys() if fires(s, name, tries)}
    assert not left


@pytest.mark.parametrize(
    ("of", "oracle"), [(Restless(), "idempotent"), (Fails(), "ZeroDivisionError: planted")]
)
def test_a_pass_that_does_not_keep_its_word(of: Pass, oracle: str) -> None:
    with pytest.raises(AssertionError, match=oracle):
        check_pass(of, programs=300)


class Plus(Op):
    """x + by, from elsewhere, that says itself how it is drawn."""

    traits = Traits(pointwise=True)
    by: float

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        return np.asarray(x + x.dtype.type(self.by))

    @staticmethod
    def draft(dice: Dice, like: Shape) -> Draft:
        return (Plus(dice.random()), [Want(like)]) if like.dtype.is_float else None


class Halved(Op):
    """x / 2, whose shape rule says what it takes in the shortest way."""

    traits = Traits(pointwise=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        (x,) = shapes
        return x.as_standard()

    def compute(self, x: Array) -> Array:
        return np.asarray(x / x.dtype.type(2))


def test_inputs_that_do_not_unpack_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "operation", lambda name: Halved)
    for seed in range(8):
        found = draft("halved", Dice(seed), Shape("f32", (2, 3)))
        assert found is not None
        assert len(found[1]) == 1


def test_an_operation_from_elsewhere_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    table: dict[str, Any] = {**plugins.operations(), "plus": Plus}
    monkeypatch.setattr(plugins, "operations", lambda: table)
    monkeypatch.setattr(plugins, "operation", table.__getitem__)
    drawable.cache_clear()
    try:
        assert "plus" in drawable()
        found = draft("plus", Dice(1), Shape("f32", (2, 3)))
        assert found is not None
        assert 0 < operations.attributes(found[0])["by"] < 1
        assert draft("plus", Dice(1), Shape("i64", (2, 3))) is None
    finally:
        drawable.cache_clear()

"""Constants in the formats a target wants: packed once for each, shared, swapped, and listed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops, plugins
from migx.argument import Argument
from migx.cli.params import layouts, relayouts
from migx.errors import TargetError
from migx.ir import Instruction, Module
from migx.manager import Pass, PassManager, Pipeline
from migx.onnx import replace_onnx_external_weights
from migx.op import Arguments, Array, Modules, Op, Shapes, Traits
from migx.ops import Dot
from migx.ops.builtin import Literal, Slot
from migx.program import Program
from migx.shape import Shape
from migx.target import CompileOptions, Context
from migx.targets.ref import Ref
from migx.verify import verify

TWO = """module main(x: f32[3, 6], n: f32[6, 3]) {
  %0 = onnx_external_weights() {label="w", file="w.bin", offset=0, length=144, shape=f32[6, 6]}
  %1 = dot(x, %0) : f32[3, 6]
  %2 = relu(%1) : f32[3, 6]
  %3 = dot(%2, %0) : f32[3, 6]
  %4 = dot(%0, n) : f32[6, 3]
  %5 = transpose(%4) {permutation=(1, 0)} : f32[3, 6]
  %6 = add(%3, %5) : f32[3, 6]
  return %6
}
"""
W = np.random.default_rng(0).standard_normal((6, 6), np.float32)
X = {
    "x": np.random.default_rng(1).standard_normal((3, 6), np.float32),
    "n": np.random.default_rng(2).standard_normal((6, 3), np.float32),
}


class Blocked(Ref):
    """Reads what stands on the right of a product in panels, and on the left by columns."""

    packed = 0

    def preferred_weight_format(self, instruction: Instruction, index: int) -> str | None:
        if instruction.name != "dot":
            return None
        return "Ba4b" if index == 1 else "ba"

    def transform_weight(self, argument: Argument, layout: str) -> Argument:
        Blocked.packed += 1
        return super().transform_weight(argument, layout)


def compiled(text: str = TWO) -> Program:
    program = migx.parse(text).compile(Blocked())
    verify(program.compiled.program)
    return program


def test_a_weight_is_packed_once_for_each_format() -> None:
    program = compiled()
    assert program.compiled.program.weights is not None
    counts = Counter(at.name for at in program.compiled.program.weights)
    assert counts == {"onnx_external_weights": 1, "pack_weight": 2, "@return": 1}
    Blocked.packed = 0
    with program.update_weights() as new:
        new["w"] = W
    assert Blocked.packed == 2
    # The original is gone: no slot holds it.
    slots = program.compiled.weights.current.slots
    assert sorted(v.shape.dims for v in slots.values()) == [(2, 6, 4), (6, 6)]
    assert not any(np.array_equal(v.array, W) for v in slots.values())
    expected = migx.parse(TWO).compile("ref")
    with expected.update_weights() as new:
        new["w"] = W
    assert np.array_equal(program.eval(X)[0], expected.eval(X)[0])


def test_literals_are_packed_when_the_program_is_compiled() -> None:
    fixed = replace_onnx_external_weights(migx.parse(TWO), {"w": W}, replaceable=False)
    program = fixed.compile(Blocked())
    assert program.compiled.program.weights is None
    shapes = {at.shape.dims for at in program.compiled.program.literals}
    assert shapes == {(2, 6, 4), (6, 6)}
    assert np.array_equal(program.eval(X)[0], fixed.copy().compile("ref").eval(X)[0])


class OwnLiteral(Literal):
    """A literal as the target below has it."""

    name = "own::literal"


class BlockedOwn(Blocked):
    """A target whose passes leave literals of its own."""

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return Pipeline.parse('lower_baked_literals{to="own::literal"}')


def test_literals_of_a_target_are_packed_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    table = plugins.operations() | {"own::literal": OwnLiteral}
    monkeypatch.setattr(plugins, "_operations", lambda: (table, {}, []))
    fixed = replace_onnx_external_weights(migx.parse(TWO), {"w": W}, replaceable=False)
    program = fixed.copy().compile(BlockedOwn())
    held = [at for at in program.compiled.program.literals if at.users]
    assert {at.shape.dims for at in held} == {(2, 6, 4), (6, 6)}
    assert {(at.name, at.op_as(OwnLiteral).label) for at in held} == {("own::literal", "w")}
    assert np.array_equal(program.eval(X)[0], fixed.compile("ref").eval(X)[0])


@pytest.mark.parametrize("after", ["", "relu"])
@pytest.mark.parametrize("replaceable", [False, True])
def test_what_is_unpacked_from_four_bits_stays_so(replaceable: bool, after: str) -> None:
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape("f32", (3, 64)))
    levels = np.random.default_rng(0).integers(-8, 8, (64, 64))
    w = main.add_literal(levels, "i4", name="w", replaceable=replaceable)
    unpacked = main.add_instruction(migx.ops.UnpackInt4(), w)
    scales = main.add_literal(np.full((2, 64), 0.5, np.float32))
    right = main.add_instruction(migx.ops.DequantizeLinear(axis=0, block=32), unpacked, scales)
    right = main.add_instruction(migx.ops.Relu(), right) if after else right
    main.add_return(main.add_instruction(migx.ops.Dot(), x, right))
    program.compile(Blocked())
    lowered = program.compiled.program
    assert not any("pack_weight" in at.name for m in lowered.modules.values() for at in m)
    data = np.ones((3, 64), np.float32)
    kept = np.maximum(levels, 0) if after else levels
    assert np.array_equal(program.eval({"x": data})[0], data @ (kept / 2).astype(np.float32))


def test_what_stands_behind_views_is_packed() -> None:
    program = compiled(
        """module main(x: f32[batch, 3, 6]) {
  %0 = @literal() {value=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], label="w", replaceable=true} : f32[6, 1]
  %1 = multibroadcast(%0) {out_lens=(batch, 6, 1)} : f32[batch, 6, 1]
  %2 = dot(x, %1) : f32[batch, 3, 1]
  return %2
}
"""
    )
    names = [at.name for at in program.compiled.program.main]
    assert names == ["@param", "@slot", "unpack_weight", "multibroadcast", "dot", "@return"]
    x = np.ones((2, 3, 6), np.float32)
    assert program.eval({"x": x})[0].tolist() == [[[21.0]] * 3] * 2


def test_a_passes_list_does_not_undo_the_packing() -> None:
    lowered = compiled().compiled.program
    before = str(lowered)
    migx.run_passes(lowered, "propagate_constant,hoist_weights,simplify_reshapes")
    assert str(lowered) == before


def test_a_fixed_weight_that_is_packed_keeps_its_name() -> None:
    program = migx.parse("module main(x: f32[3, 6]) {\n  %0 = relu(x)\n  return %0\n}")
    main = program.main
    (relu,) = main.outputs
    w = main.insert_instruction(main.returned, Literal(Argument.of(W), "w"))
    main.replace_instruction(relu, main.insert_instruction(main.returned, Dot(), relu.inputs[0], w))
    (row,) = layouts(program.compile(Blocked()).compiled)
    assert (row["constant"], row["format"]) == ("w", "Ba4b")


def test_layouts_are_listed_with_what_is_left_to_each_run() -> None:
    made = compiled().compiled
    rows = {row["format"]: row for row in layouts(made)}
    assert rows["Ba4b"]["made of"] == "pack_weight of w"
    assert rows["Ba4b"]["read by"] == "dot x2"
    assert rows["ba"]["bytes"] == 144
    # This target's executable absorbs none.
    assert sorted(relayouts(made)) == ["w:pack_weight (Ba4b)", "w:pack_weight.1 (ba)"]


def test_a_format_that_is_none_for_a_constant_is_the_targets_mistake() -> None:
    text = """module main(x: f32[3, 6]) {
  %0 = @literal() {value=[2.0], label="w", replaceable=true} : f32[]
  %1 = multibroadcast(%0) {out_lens=(6, 4)} : f32[6, 4]
  %2 = dot(x, %1) : f32[3, 4]
  return %2
}
"""
    said = r"target blocked wants input 1 packed, f32\[\], which lies behind views: format 'Ba4b'"
    with pytest.raises(TargetError, match=said):
        compiled(text)


def test_a_weight_in_which_a_pass_saw_a_number_keeps_it() -> None:
    text = """module main(x: f32[3]) {
  %0 = @literal() {value=[1.0], label="scale", replaceable=true} : f32[1]
  %1 = @literal() {value=[0.0], label="offset", replaceable=true} : f32[1]
  %2 = multibroadcast(%0) {out_lens=(3)} : f32[3]
  %3 = multibroadcast(%1) {out_lens=(3)} : f32[3]
  %4 = mul(x, %2) : f32[3]
  %5 = sub(%4, %3) : f32[3]
  return %5
}
"""
    text = text.replace("(3)}", "(3,)}")
    program = migx.parse(text).compile("ref", passes="simplify_algebra")
    assert [at.name for at in program.compiled.program.main] == ["@param", "@return"]
    assumed = {a.label: a.relied_on_by for a in program.compiled.program.assumptions}
    assert assumed == {"scale": "simplify_algebra", "offset": "simplify_algebra"}
    x = {"x": np.arange(3, dtype=np.float32)}
    for name in assumed:
        refused = pytest.raises(migx.MigxError, match=f"'{name}' cannot have another value: simpl")
        with refused, program.update_weights() as new:
            new[name] = np.array([2], np.float32)
        assert program.eval(x)[0].tolist() == [0, 1, 2]
    with program.update_weights() as new:
        new["scale"] = np.array([1], np.float32)
    # Compiled again with the new weight, it is no longer assumed.
    again = replace_onnx_external_weights(migx.parse(text), {"scale": np.array([2], np.float32)})
    again.compile("ref", passes="simplify_algebra")
    assert again.eval(x)[0].tolist() == [0, 2, 4]


class Scaled(Op):
    """Levels and their scale, side by side: more bytes than either, filled up to rows of 2 KB."""

    name = "own::scaled"
    traits = Traits(packs=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return Shape("u8", (shapes[0].dims[0], 2048))

    def compute(
        self, context: Context, shape: Shape, arguments: list[Argument], modules: Modules
    ) -> Argument:
        levels, scale = (value.elements for value in arguments)
        made = np.zeros(shape.dims, np.uint8)
        made[:, : levels.shape[1]] = levels
        made[:, -4:] = np.frombuffer(scale.tobytes(), np.uint8)
        return Argument.of(made)


class Unscaled(Op):
    """The numbers that were put together so."""

    name = "own::unscaled"
    columns: int

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return Shape("f32", (shapes[0].dims[0], self.columns))

    def compute(self, x: Array) -> Array:
        return x[:, : self.columns] * np.ascontiguousarray(x[:, -4:]).view(np.float32)


class Together(Pass):
    """Puts levels and scales together."""

    name = "own::together"

    def apply(self, module: Module, manager: PassManager) -> bool:
        found = [at for at in module if at.name == "dequantizelinear"]
        for at in found:
            levels = at.inputs[0].inputs[0]
            made = module.insert_instruction(at, Scaled(), levels, at.inputs[1])
            read = module.insert_instruction(at, Unscaled(int(at.shape.dims[1])), made)
            module.replace_instruction(at, read)
        return bool(found)


class Joining(Ref):
    """Reads levels and scales together."""

    def get_passes(self, context: Context, options: CompileOptions) -> Pipeline:
        return Pipeline.of(["hoist_weights", Together(), "propagate_constant,hoist_weights"])


@pytest.mark.parametrize("replaceable", [False, True])
@pytest.mark.parametrize("rows", [2, 1024])
def test_what_an_operation_packs_is_computed_before_any_run(rows: int, replaceable: bool) -> None:
    """However large it becomes, and though it was packed below a byte before."""
    program, rng = Program(), np.random.default_rng(0)
    main = program.main
    x = main.add_parameter("x", Shape("f32", (migx.Dim("n"), rows)))
    shape = Shape("u4", (rows, 4))
    bits = Argument.packed(shape, rng.integers(0, 256, rows * 2, np.uint8))
    levels = main.add_literal(bits, name="w", replaceable=replaceable)
    scale = main.add_literal(np.array(0.5, np.float32))
    numbers = main.add_instruction(ops.UnpackInt4(), levels)
    w, again = (main.add_instruction(ops.DequantizeLinear(), numbers, scale) for _ in range(2))
    main.add_return(main.add_instruction(Dot(), x, w), again)
    inputs = {"x": np.ones((3, rows), np.float32)}
    made = program.copy().compile(Joining())
    verify(made.compiled.program)
    assert "own::scaled" not in [at.name for at in made.compiled.program.main]
    if rows == 1024:  # what is packed the same way is packed once
        readers = [at for at in made.compiled.program.main if isinstance(at.op, Unscaled)]
        read: list[Any] = [at.inputs[0].op for at in readers]
        held = {op.slot if isinstance(op, Slot) else id(op.value) for op in read}
        assert (len(readers), len(held)) == (2, 1)
    expected = program.compile("ref").eval(inputs)
    assert all(map(np.array_equal, made.eval(inputs), expected))
    if replaceable:
        for each in (made, program):
            with each.update_weights() as new:
                new["w"] = Argument.packed(shape, bytes(range(1, 3)) * rows)
        assert all(map(np.array_equal, made.eval(inputs), program.eval(inputs)))


class Halves(Op):
    """The rows of a matrix in two parts, in its own order."""

    name = "own::halves"
    traits = Traits(packs=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        rows, columns = (int(d) for d in shapes[0].dims)
        return Shape.tuple(*[Shape("f32", (rows // 2, columns))] * 2)

    def compute(self, arguments: Arguments) -> Argument:
        return Argument.tuple([Argument.of(half) for half in np.split(arguments[0].array, 2)])


@pytest.mark.parametrize("replaceable", [False, True])
def test_an_operation_may_pack_into_several_results(replaceable: bool) -> None:
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape("f32", (3, 6)))
    w = main.add_instruction(Halves(), main.add_literal(W, name="w", replaceable=replaceable))
    lower = main.add_instruction(ops.GetTupleElem(1), w)
    main.add_return(
        main.add_instruction(Dot(), lower, main.add_instruction(ops.Transpose((1, 0)), x))
    )
    made = program.compile("ref")
    assert "own::halves" not in [at.name for at in made.compiled.program.main]
    np.testing.assert_allclose(made.eval({"x": X["x"]})[0], W[3:] @ X["x"].T, rtol=1e-5)
    if replaceable:
        assert [*made.compiled.program.slots] == ["w:own::halves"]
        with made.update_weights() as new:
            new["w"] = W[::-1]
        expected = W[::-1][3:] @ X["x"].T
        np.testing.assert_allclose(made.eval({"x": X["x"]})[0], expected, rtol=1e-5)

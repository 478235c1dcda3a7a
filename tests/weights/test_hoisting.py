"""What depends on weights alone becomes slots: what moves, what stays, and how slots are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import migx
from migx.argument import Argument
from migx.ops.builtin import Literal, Slot
from migx.ops.packing import UnpackInt4
from migx.ops.pointwise import Add, Convert, Exp, Neg
from migx.program import Program
from migx.shape import F16, F32, I4, I8, DType, Shape
from migx.verify import verify
from migx.weights.hoisting import hoist_sources

WEIGHT = (
    'onnx_external_weights() {{label="{0}", file="w.bin", offset={1}, length={2}, shape={3}}} : {3}'
)


def weight(name: str, shape: str, length: int, offset: int = 0) -> str:
    return WEIGHT.format(name, offset, length, shape)


def hoisted(text: str) -> Program:
    """A program with its weights hoisted: verified, equal to its text, and unchanged by another
    run of the pass.
    """
    program = migx.parse(text)
    assert migx.run_passes(program, "hoist_weights")
    verify(program)
    assert migx.parse(str(program)) == program
    assert not migx.run_passes(program, "hoist_weights")
    return program


def slots(program: Program) -> dict[str, str]:
    """The operation that computes each slot."""
    assert program.weights is not None
    made = zip(program.weights.output_names, program.weights.outputs, strict=True)
    return {name: at.name for name, at in made}


def test_compute_on_weights_and_literals_moves() -> None:
    program = hoisted(f"""module main(x: f32[2, 3]) {{
  %0 = {weight("w", "f32[3, 2]", 24)}
  %1 = {weight("scale", "f32[3]", 12, 24)}
  %2 = @literal() {{value=[1.0, 2.0, 3.0]}} : f32[3]
  %3 = transpose(%0) {{permutation=(1, 0)}} : f32[2, 3]
  %4 = add(%1, %2) : f32[3]
  %5 = multibroadcast(%4) {{out_lens=(2, 3)}} : f32[2, 3]
  %6 = mul(%3, %5) : f32[2, 3]
  %7 = add(x, %6) : f32[2, 3]
  return %7
}}
""")
    assert [at.name for at in program.main] == ["@param", "@slot", "add", "@return"]
    assert slots(program) == {"w:mul": "mul"}


def test_broadcasts_and_unpacked_storage_stay() -> None:
    program = hoisted(f"""module main(x: f32[64, 3]) {{
  %0 = {weight("w", "f32[3]", 12)}
  %1 = {weight("packed", "i4[64, 3]", 96, 12)}
  %2 = neg(%0) : f32[3]
  %3 = multibroadcast(%2) {{out_lens=(64, 3)}} : f32[64, 3]
  %4 = unpack_int4(%1) : i8[64, 3]
  %5 = convert(%4) {{to=f32}} : f32[64, 3]
  %6 = add(x, %3) : f32[64, 3]
  %7 = mul(%6, %5) : f32[64, 3]
  return %7
}}
""")
    assert slots(program) == {"w:neg": "neg", "packed": "onnx_external_weights"}
    assert [at.name for at in program.main if at.name != "@slot"] == [
        "@param", "multibroadcast", "unpack_int4", "convert", "add", "mul", "@return",
    ]  # fmt: skip


def test_a_weight_read_in_two_layouts_is_kept_once_where_it_is_large() -> None:
    large = weight("w", "f32[1024, 1024]", 1 << 22)
    program = hoisted(f"""module main(x: f32[1, 1024]) {{
  %0 = {large}
  %1 = transpose(%0) {{permutation=(1, 0)}} : f32[1024, 1024]
  %2 = dot(x, %0) : f32[1, 1024]
  %3 = dot(%2, %1) : f32[1, 1024]
  return %3
}}
""")
    assert slots(program) == {"w": "onnx_external_weights"}
    small = weight("w", "f32[4, 4]", 64)
    program = hoisted(f"""module main(x: f32[1, 4]) {{
  %0 = {small}
  %1 = neg(%0) : f32[4, 4]
  %2 = dot(x, %0) : f32[1, 4]
  %3 = dot(%2, %1) : f32[1, 4]
  return %3
}}
""")
    assert slots(program) == {"w:neg": "neg", "w": "onnx_external_weights"}


def test_bodies_read_slots_that_are_named_by_their_path() -> None:
    program = hoisted(f"""module main(x: f32[4], trips: i64[]) {{
  %0 = {weight("outer", "f32[4]", 16)}
  %1 = @literal() {{value=[true]}} : bool[]
  %2 = loop(trips, %1, x) [body] : tuple(f32[4])
  %3 = get_tuple_elem(%2) : f32[4]
  return %3
}}

module body(i: i64[], go: bool[], at: f32[4]) {{
  %0 = {weight("inner", "f32[4]", 16, 16)}
  %1 = add(%0, main:%0) : f32[4]
  %2 = mul(at, %1) : f32[4]
  return go, %2
}}
""")
    assert list(slots(program)) == ["body/inner:add"]
    read = [at.op.slot for at in program.modules["body"] if isinstance(at.op, Slot)]
    assert read == ["body/inner:add"]


def test_a_slot_that_is_computed_on_again_is_computed_on_in_the_weights_module() -> None:
    program = migx.parse(f"""module main(x: f32[4]) {{
  %0 = {weight("w", "f32[4]", 16)}
  %1 = add(x, %0) : f32[4]
  return %1
}}
""")
    assert hoist_sources(program)
    (add,) = [at for at in program.main if at.name == "add"]
    slot = add.inputs[1]
    assert add.module is not None
    negated = add.module.insert_instruction(add, Neg(), slot)
    add.module.replace_input(add, 1, negated)
    assert migx.run_passes(program, "hoist_weights")
    assert slots(program) == {"w:neg": "neg"}


def test_a_slot_in_which_nothing_can_be_replaced_becomes_a_literal() -> None:
    program = migx.parse("""module main(x: f32[2]) {
  %0 = @slot() {slot="s", shape=f32[2]} : f32[2]
  %1 = add(x, %0) : f32[2]
  return %1
}

module weights() bypass {
  %0 = @literal() {value=[1.0, 2.0]} : f32[2]
  %1 = neg(%0) : f32[2]
  return s=%1
}
""")
    verify(program)
    assert migx.run_passes(program, "hoist_weights")
    assert program.weights is None
    (literal,) = program.literals
    assert literal.op_as(Literal).value.tolist() == [-1, -2]


def test_values_are_those_of_the_program_that_was_not_hoisted() -> None:
    text = """module main(x: f32[2, 3]) {
  %0 = @literal() {value=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], label="w", replaceable=true} : f32[3, 2]
  %1 = transpose(%0) {permutation=(1, 0)} : f32[2, 3]
  %2 = exp(%1) : f32[2, 3]
  %3 = sub(x, %2) : f32[2, 3]
  return %3
}
"""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain, moved = migx.parse(text).compile("ref"), hoisted(text).compile("ref")
    assert np.array_equal(plain.eval({"x": x})[0], moved.eval({"x": x})[0])


@pytest.mark.parametrize("name", ["return s=%0", "return other=%0"])
def test_a_slot_that_is_not_there_does_not_verify(name: str) -> None:
    program = migx.parse(f"""module main(x: f32[2]) {{
  %0 = @slot() {{slot="s", shape=f32[3]}} : f32[3]
  return %0
}}

module weights() bypass {{
  %0 = @literal() {{value=[1.0, 2.0]}} : f32[2]
  {name}
}}
""")
    with pytest.raises(
        migx.MigxError, match=r"weights: in module main: (it is f32\[3\]|there is no)"
    ):
        verify(program)


def test_a_part_of_a_tuple_is_no_view_of_it() -> None:
    """Though it may have as many bytes: here both have none."""
    program = hoisted("""module main() {
  %0 = @literal() {value=[], label="w", replaceable=true} : f32[0]
  %1 = topk(%0) {k=0, axis=0} : tuple(f32[0], i64[0])
  %2 = get_tuple_elem(%1) {index=1} : i64[0]
  return %2
}
""")
    (places,) = program.compile("ref").eval({})
    assert places.shape == (0,)


MASK = """module main(x: f32[1024, 1024]) {
  %0 = @literal() {value=[0]} : i64[]
  %1 = @literal() {value=[1024]} : i64[]
  %2 = @literal() {value=[1]} : i64[]
  %3 = dynamic_range(%0, %1, %2) {count=1024} : i64[1024]
  %4 = broadcast(%3) {axis=0, out_lens=(1024, 1024)} : i64[1024, 1024]
  %5 = multibroadcast(%3) {out_lens=(1024, 1024)} : i64[1024, 1024]
  %6 = less(%4, %5) : bool[1024, 1024]
  %7 = convert(%6) {to=f32} : f32[1024, 1024]
  %8 = add(x, %7) : f32[1024, 1024]
  return %8
}
"""


def test_a_table_too_large_for_a_literal_is_computed_once(tmp_path: Path) -> None:
    assert not migx.run_passes(migx.parse(MASK), "propagate_constant")
    program = hoisted(MASK)
    assert [at.name for at in program.main] == ["@param", "@slot", "add", "@return"]
    assert slots(program) == {"convert": "convert"}

    made = migx.parse(MASK).compile("cpu")
    migx.save(made, tmp_path / "mask.mxr")
    assert (tmp_path / "mask.mxr").stat().st_size < 1 << 16
    x = np.zeros((1024, 1024), np.float32)
    for each in (made, migx.load(tmp_path / "mask.mxr")):
        (slot,) = each.compiled.weights.current.slots.values()
        assert np.array_equal(each.eval({"x": x})[0], np.triu(x + 1, 1))
        assert np.array_equal(slot.array, np.triu(x + 1, 1))


@pytest.mark.parametrize("dtype", [I8, I4, F16])
def test_stored_weights_are_no_table(dtype: DType) -> None:
    """Of which there is a bit or more for each element; these are larger once they are unpacked."""
    program, shape = Program(), Shape(dtype, (1024, 2048))
    main = program.main
    x = main.add_parameter("x", Shape(F32, shape.dims))
    w = main.add_literal(Argument.packed(shape, bytes(int(shape.nbytes))))
    whole = main.add_instruction(UnpackInt4(), w) if dtype is I4 else w
    whole = main.add_instruction(Exp(), main.add_instruction(Convert(F32), whole))
    main.add_return(main.add_instruction(Add(), x, whole))
    assert not migx.run_passes(program, "hoist_weights")


def test_a_table_that_cannot_be_computed_stays_where_it_may_never_run() -> None:
    text = MASK.replace("value=[1]", "value=[0]")
    assert not migx.run_passes(migx.parse(text), "hoist_weights")


def test_a_table_computed_with_a_weight_is_computed_with_each_new_one() -> None:
    text = MASK.replace("%8 = add(x, %7)", "%8 = mul(%7, %10)\n  %11 = add(x, %8)")
    text = text.replace("return %8", "return %11").replace(
        "  %8 = mul",
        '  %9 = @literal() {value=[2.0], label="w", replaceable=true} : f32[1]\n'
        "  %10 = multibroadcast(%9) {out_lens=(1024, 1024)} : f32[1024, 1024]\n  %8 = mul",
    )
    assert slots(hoisted(text)) == {"w:mul": "mul"}
    program = migx.parse(text).compile("ref", passes="hoist_weights")
    with program.update_weights() as new:
        new["w"] = np.array([3.0], np.float32)
    x = np.zeros((1024, 1024), np.float32)
    assert np.array_equal(program.eval({"x": x})[0], np.triu(x + 3, 1))

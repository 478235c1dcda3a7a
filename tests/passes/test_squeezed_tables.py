"""Tables whose rows are looked up and multiplied by are stored once, in few bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.argument import Argument
from migx.dim import Dim
from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.passes._squeezing import Squeeze
from migx.program import Program
from migx.shape import Shape
from tests.passes.test_int4_making import Array, floats, held, settled

ROWS, WIDTH = 96, 32
TABLE = floats(ROWS, WIDTH)
BYTES = ROWS * WIDTH
ROUNDED = 2 * (WIDTH + 4) * WIDTH * 2.0**-24
"""What two sums of as many products of numbers up to 1 may differ by, those rounded themselves."""
INPUT = {"i": np.array([5, 95, 0])}
PASSES = ["quantize_int8", "quantize_int8{block=8}", "quantize_int4{block=8}"]


def language_model(table: Literal, head: Literal | None = None) -> Program:
    """Rows of a table, a step on, multiplied by all rows: of one literal, or of two."""
    program = Program()
    main = program.main
    i = main.add_parameter("i", Shape("i64", (Dim("n"),)))
    rows = main.add_instruction(table)
    last = rows if head is None else main.add_instruction(head)
    y = main.add_instruction(ops.Tanh(), main.add_instruction(ops.Gather(), rows, i))
    turned = main.add_instruction(ops.Transpose((1, 0)), last)
    main.add_return(main.add_instruction(ops.Dot(), y, turned))
    return program


def literal(label: str = "table", value: Array = TABLE, **how: Any) -> Literal:
    return Literal(Argument.of(value), label, **how)


def tied() -> Program:
    return language_model(literal())


def of_one_value() -> Program:
    table = literal()
    return language_model(table, Literal(table.value, "head"))


def of_equal_bits() -> Program:
    return language_model(literal(), literal("head", TABLE.copy()))


def wide(program: Program) -> list[Instruction]:
    """What runs do to the whole table, and all floats that are as many as it has."""
    quantising = ("choose_scales", "quantizelinear")
    return [
        at
        for at in program.compiled.program.main
        if at.name in quantising or (at.shape.dtype.is_float and _as_many(at.shape))
    ]


def _as_many(shape: Shape) -> bool:
    return shape.static and int(shape.elements) >= BYTES


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("model", [tied, of_one_value, of_equal_bits])
def test_a_table_is_stored_once(passes: str, model: Any) -> None:
    after = settled(model(), f"{passes},propagate_constant")
    small = {k: v for k, v in held(after).items() if k != "f32"}
    bits, points = (8, 0) if "int8" in passes else (4, BYTES // 8 // 2)
    assert sum(small.values()) == BYTES * bits // 8 + points
    assert held(after)["f32"] == 4 * (BYTES // 8 if "block" in passes else ROWS)
    assert Squeeze.in_floats(after) == {}
    assert Squeeze.in_floats(model()) == {"head" if model is not tied else "table": 4 * BYTES}


@pytest.mark.parametrize("folded", ["", ",propagate_constant"])
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("model", [tied, of_one_value, of_equal_bits])
def test_no_run_quantises_it_again(passes: str, model: Any, folded: str) -> None:
    program = model()
    migx.run_passes(program, passes)
    (wanted,) = program.copy().compile("ref", passes="").eval(INPUT)
    migx.run_passes(program, folded[1:])
    program.compile("cpu")
    assert not wide(program)
    close = ROUNDED * float(np.abs(TABLE).max())
    np.testing.assert_allclose(program.eval(INPUT)[0], wanted, rtol=0, atol=close)


@pytest.mark.parametrize("passes", PASSES)
def test_rows_are_looked_up_in_the_table_that_is_multiplied_by(passes: str) -> None:
    program = tied()
    (dot,) = [at for at in program.main if at.name == "dot"]
    program.main.add_return(dot, dot.inputs[0].inputs[0])
    every, before = {"i": np.arange(ROWS)}, program.copy().compile("ref", passes="")
    migx.run_passes(program, f"{passes},propagate_constant,simplify_qdq")
    product, rows = program.compile("ref", passes="").eval(every)
    assert 0 < np.abs(rows - TABLE).max() < (0.3 if "int4" in passes else 0.02)
    close = ROUNDED * float(np.abs(rows).max())
    np.testing.assert_allclose(product, np.tanh(rows) @ rows.T, rtol=0, atol=close)
    assert not np.allclose(product, before.eval(every)[0], rtol=0, atol=close)


def test_a_live_table_is_quantised_as_it_arrives() -> None:
    live, new = language_model(literal(replaceable=True)), TABLE[::-1] * 2
    migx.run_passes(live, "quantize_int8")
    live.compile("cpu")
    assert not wide(live)
    with live.update_weights() as update:
        update["table"] = new
    baked = language_model(literal(value=new.copy()))
    migx.run_passes(baked, "quantize_int8")
    assert np.array_equal(live.eval(INPUT)[0], baked.compile("cpu").eval(INPUT)[0])


@pytest.mark.parametrize("skip", ["table", "look-up", "product"])
def test_a_table_is_left_out_by_label_or_by_either_of_its_nodes(skip: str) -> None:
    program = tied()
    for at in program.main:
        at.origins = {"gather": ("look-up",), "dot": ("product",)}.get(at.name, ())
    before = program.copy()
    assert not migx.run_passes(program, f"quantize_int8{{skip=({skip})}}")
    assert program == before


BRANCHES = """
module main(on: bool[], i: i64[n], x: f32[4, 32]) {
  %0 = @literal() {value=bytes("absent.bin", 0, 12288), label="table"} : f32[96, 32]
  %1 = gather(%0, i)
  %2 = if(on) [then, else]
  %3 = get_tuple_elem(%2)
  return %1, %3
}

module then() {
  %0 = transpose(main:%0) {permutation=(1, 0)}
  %1 = dot(main:x, %0)
  return %1
}

module else() {
  %0 = @literal() {value=[0.0]} : f32[]
  %1 = multibroadcast(%0) {out_lens=(4, 96)}
  return %1
}
"""


def test_a_table_that_a_branch_multiplies_by_is_squeezed_too() -> None:
    program = migx.parse(BRANCHES, draw_missing=0)
    migx.run_passes(program, "quantize_int8")
    program.compile("cpu")
    assert not wide(program)


def test_a_weight_that_is_read_in_too_many_ways_is_not_quantised_in_each_run() -> None:
    """Of halves each way takes half the bytes, and scales besides."""
    program = Program()
    main = program.main
    x, y = (main.add_parameter(n, Shape("f16", (4, d))) for n, d in (("x", 2048), ("y", 8192)))
    weight = main.add_literal(np.zeros((8192, 2048), np.float16), name="w")
    turned = main.add_instruction(ops.Transpose((1, 0)), weight)
    products = [(x, turned), (y, weight)]
    main.add_return(*(main.add_instruction(ops.Dot(), *each) for each in products))
    before = program.copy()
    assert not migx.run_passes(program, "quantize_int8{block=16}")
    assert program == before

"""Programs built by hand, and all that is done with them, as by MIGraphX's Python module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import migx.compat.migraphx as migraphx
from migx.errors import CompatError, InputError, IRError, TargetError, UnknownName
from migx.ops.builtin import Param

Array = NDArray[Any]
SQUARE = migraphx.shape(type="float", lens=[3, 3])
NINE = np.arange(9, dtype=np.float32).reshape(3, 3)
targets = pytest.mark.parametrize("name", ["ref", "cpu"])


def sum_of_two() -> tuple[migraphx.program, list[migraphx.instruction_ref]]:
    """The sum of x and y, with its instructions: x, y and itself."""
    p = migraphx.program()
    main = p.get_main_module()
    x, y = (main.add_parameter(name, SQUARE) for name in ("x", "y"))
    added = main.add_instruction(migraphx.op("add"), [x, y])
    main.add_return([added])
    return p, [x, y, added]


@targets
def test_a_sum(name: str) -> None:
    p, _ = sum_of_two()
    assert not p.is_compiled()
    p.compile(migraphx.get_target(name))
    assert p.is_compiled()
    assert p.get_parameter_names() == ["x", "y"]
    assert p.get_parameter_shapes() == {"x": SQUARE, "y": SQUARE}
    assert p.get_output_shapes() == [SQUARE]
    (found,) = p.run({"x": NINE, "y": migraphx.argument(2 * NINE)})
    assert found.get_shape() == SQUARE
    assert np.array_equal(np.array(found), 3 * NINE)


@targets
def test_literals_and_no_return(name: str) -> None:
    p = migraphx.program()
    main = p.get_main_module()
    ones, nine = main.add_literal(migraphx.fill_argument(SQUARE, 1)), NINE.copy()
    main.add_instruction(migraphx.op("add"), [ones, main.add_literal(nine)])
    nine[...] = 0  # literals are copies
    assert p.get_output_shapes() == [SQUARE]  # the last instruction, as nothing is returned
    p.compile(migraphx.get_target(name))
    assert p.run({})[-1].tolist() == list(range(1, 10))


@targets
@pytest.mark.parametrize("holds", [True, False])
def test_one_of_two_modules(name: str, holds: bool) -> None:
    p = migraphx.program()
    main = p.get_main_module()
    scalar = migraphx.shape(type="bool", lens=[1], strides=[0])
    condition = main.add_parameter("condition", scalar)
    values = [main.add_parameter(name, SQUARE) for name in ("x", "y")]
    branches = []
    for value in values:
        branch = p.create_module(f"returns_{value.instruction.op_as(Param).parameter}")
        branch.add_return([branch.add_instruction(migraphx.op("identity"), [value])])
        branches.append(branch)
    chosen = main.add_instruction(migraphx.op("if"), [condition], branches)
    first = main.add_instruction(migraphx.op("get_tuple_elem", index=0), [chosen])
    main.add_return([first])
    p.compile(migraphx.get_target(name))
    for given in (np.array(holds), np.array([holds])):
        (found,) = p.run({"condition": given, "x": NINE, "y": -NINE})
        assert np.array_equal(np.array(found), NINE if holds else -NINE)
    with pytest.raises(CompatError, match="relu takes no modules"):
        main.add_instruction(migraphx.op("relu"), values[:1], branches)


@targets
def test_dims_that_only_a_run_knows(name: str) -> None:
    batch = migraphx.shape.dynamic_dimension(1, 4, {2})
    three = migraphx.shape.dynamic_dimension(3, 3)
    p = migraphx.program()
    main = p.get_main_module()
    x = main.add_parameter("x", migraphx.shape(dyn_dims=[batch, three]))
    relu = main.add_instruction(migraphx.op("relu"), [x])
    main.add_return([main.add_instruction(migraphx.op("softmax", axis=1), [relu])])
    (shape,) = p.get_output_shapes()
    assert [(d.min, d.max, d.optimals) for d in shape.dyn_dims()] == [(1, 4, {2}), (3, 3, set())]
    p.compile(migraphx.get_target(name))
    for count in (1, 4):
        (found,) = p.run({"x": np.zeros((count, 3), np.float32)})
        assert found.get_shape().lens() == [count, 3]
    with pytest.raises(InputError, match="outside its bounds 1..4"):
        p.run({"x": np.zeros((5, 3), np.float32)})


def test_instructions_are_looked_at() -> None:
    p, (x, y, added) = sum_of_two()
    names = [each.name() for each in p.get_main_module()]
    assert names == ["@param", "@param", "add", "@return"]
    assert (added.inputs(), x.outputs()) == ([x, y], [added])
    assert x != y
    assert len({x, x, y}) == 2
    assert added.shape() == SQUARE
    assert (added.op().name(), added.op().values()) == ("add", {})
    literal = p.get_main_module().add_literal(NINE)
    assert np.array_equal(np.array(literal.get_literal()), NINE)
    with pytest.raises(IRError, match="is no @literal"):
        added.get_literal()


def test_shapes_of_several_values() -> None:
    p, (x, _, added) = sum_of_two()
    main = p.get_main_module()
    assert [at.shape() for at in main] == [SQUARE] * 4
    topk = main.add_instruction(migraphx.op("topk", k=2, axis=1), [added])
    returned = main.add_return([added, x])
    assert str(topk.shape()) == ("[float_type, {3, 2}, {2, 1}, int64_type, {3, 2}, {2, 1}]")
    assert (returned.shape().type_string(), returned.shape().lens()) == ("tuple_type", [])
    assert returned.shape() != topk.shape()
    assert returned.shape().bytes() == 2 * SQUARE.bytes()
    with pytest.raises(CompatError, match="get_tuple_elem picks one"):
        topk.shape().type()


def test_marks_of_instructions() -> None:
    p, (x, y, added) = sum_of_two()
    main = p.get_main_module()
    for each in main:
        assert each.get_debug_symbols() == set()
    product = main.add_instruction(migraphx.op("mul"), [x, added], debug_symbols=["a", "b"])
    assert product.get_debug_symbols() == {"a", "b"}
    z = main.add_parameter("z", SQUARE, debug_symbols=["input"])
    literal = main.add_literal(NINE, debug_symbols=["weight"])
    (gemm,) = main.add_macro(migraphx.macro("gemm", alpha=2.0), [y, z], debug_symbols=["macro"])
    (inserted,) = main.insert_macro(gemm, migraphx.macro("dot"), [y, y], debug_symbols=["dot"])
    (plain,) = main.add_macro(migraphx.macro("dot"), [gemm, gemm])
    result = main.replace_return([gemm, inserted, plain], debug_symbols=["result"])
    marked = {"input": [z], "weight": [literal], "dot": [inserted], "result": [result]}
    for mark, wanted in marked.items():
        assert [at for at in main if at.get_debug_symbols() == {mark}] == wanted
    assert len([at for at in main if at.get_debug_symbols() == {"macro"}]) > 1
    assert plain.get_debug_symbols() == x.get_debug_symbols() == set()


def test_copies_and_code() -> None:
    p, _ = sum_of_two()
    p.compile(migraphx.get_target("ref"), compile_mode=migraphx.compile_modes.max)
    copied = p.clone()
    assert copied == p
    assert not copied.is_compiled()
    scope: dict[str, Any] = {}
    exec(p.to_py(), scope)
    assert scope["p"] == p
    large = migraphx.program()
    large.get_main_module().add_literal(np.ones((64, 64), np.float32))
    exec(large.to_py(), scope)
    assert scope["p"].get_output_shapes()[0].lens() == [64, 64]
    assert [mode.value for mode in migraphx.compile_modes] == [0, 50, 100]


def test_a_program_without_a_return_returns_its_last_instruction(tmp_path: Path) -> None:
    p = migraphx.program()
    main = p.get_main_module()
    x = main.add_parameter("x", SQUARE)
    main.add_instruction(migraphx.op("relu"), [x])
    p.write_netron_output(str(tmp_path / "relu.onnx"))
    migraphx.save(p, str(tmp_path / "relu.mxr"))
    made = [
        migraphx.load(str(tmp_path / "relu.mxr")),
        migraphx.parse_onnx(str(tmp_path / "relu.onnx")),
    ]
    made += [migraphx.load_buffer(migraphx.save_buffer(p)), p.clone(), p.clone()]
    migraphx.quantize_fp16(made[-1])
    migraphx.autocast_fp8(made[-2])
    for each in made:
        each.compile(migraphx.get_target("ref"))
        assert each.run({"x": NINE - 4})[0].tolist() == [0.0] * 5 + [1.0, 2.0, 3.0, 4.0]
    assert [at.name() for at in main] == ["@param", "relu"]


def test_a_file_for_netron(tmp_path: Path) -> None:
    p, _ = sum_of_two()
    p.write_netron_output(str(tmp_path / "sum.onnx"))
    again = migraphx.parse_onnx(str(tmp_path / "sum.onnx"))
    assert again.get_parameter_shapes() == p.get_parameter_shapes()


def test_macros_are_added_and_inserted() -> None:
    p = migraphx.program()
    main = p.get_main_module()
    a, b = main.add_literal(NINE), main.add_literal(NINE.T)
    (product,) = main.add_macro(migraphx.macro("gemm", alpha=2.0), [a, b])
    (inserted,) = main.insert_macro(product, migraphx.macro("einsum", equation="ij,jk->ik"), [a, b])
    assert inserted.instruction.before(product.instruction)
    main.add_return([inserted, product])
    main.replace_return([product, inserted])
    p.compile(migraphx.get_target("ref"))
    doubled, found = map(np.array, p.run({}))
    assert np.array_equal(found, NINE @ NINE.T)
    assert np.array_equal(doubled, 2 * found)


def test_programs_are_compared_by_what_they_are() -> None:
    p, _ = sum_of_two()
    assert p == sum_of_two()[0]
    other = migraphx.program()
    assert p != other
    main = other.get_main_module()
    late, x, y = main.add_literal(NINE), *(main.add_parameter(name, SQUARE) for name in ("x", "y"))
    unused = main.add_instruction(migraphx.op("relu"), [late])
    added = main.add_instruction(migraphx.op("add"), [x, y])
    product = main.add_instruction(migraphx.op("mul"), [added, late])
    main.add_return([product])
    again = migraphx.program(other.program.copy())
    made = {at.name: at for at in again.program.main}
    again.program.main.move_instruction(made["add"], made["@literal"])
    assert again != other
    assert again.sort() == other.sort()
    names = [each.name() for each in main]
    assert names == ["@param", "@param", "add", "@literal", "mul", "relu", "@return"]
    assert unused.inputs() == [late]


def test_what_is_printed_is_the_text_of_migx(capsys: pytest.CaptureFixture[str]) -> None:
    p, _ = sum_of_two()
    p.print()
    p.get_main_module().print()
    assert capsys.readouterr().out == f"{p.program}\n" * 2
    assert repr(p) == str(p.program)


def test_what_cannot_be_done_is_said() -> None:
    p, _ = sum_of_two()
    inputs = {"x": NINE, "y": NINE}
    with pytest.raises(TargetError, match="compile the program first"):
        p.run(inputs)
    ref = migraphx.get_target("ref")
    with pytest.raises(CompatError, match="target ref measures nothing"):
        p.compile(ref, exhaustive_tune=True)
    p.compile(ref, offload_copy=False, fast_math=False)
    with pytest.raises(TargetError, match="target ref has no streams"):
        p.run_async(inputs, 0, "ihipStream_t")
    with pytest.raises(CompatError, match="a stream is named"):
        p.run_async(inputs, 0, "stream")
    with pytest.raises(InputError, match="there is no input 'z'"):
        p.run(inputs | {"z": NINE})
    with pytest.raises(UnknownName, match="fpga"):
        migraphx.get_target("fpga")
    columns = migraphx.shape(lens=[2, 2], strides=[1, 2])
    with pytest.raises(CompatError, match="lie in standard layout"):
        p.get_main_module().add_parameter("columns", columns)

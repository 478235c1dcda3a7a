"""Compiling and running: sizes bound at each call, threads, wrong inputs."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import migx
from migx import ops
from migx.argument import Argument
from migx.dim import Dim
from migx.errors import (
    EvaluationError,
    InputError,
    IRError,
    MigxError,
    UnknownName,
    VerifyError,
    WeightError,
)
from migx.observers import Time
from migx.program import Program
from migx.shape import F32, I64, DType, Shape

N, M = Dim("n"), Dim("m")


def attention() -> Program:
    """Symbols through a view, a broadcast, a product and a reduction."""
    program = Program()
    main = program.main
    x = main.add_parameter("x", Shape(F32, (N, M, 4)))
    y = main.add_parameter("y", Shape(F32, (N * 2, M)))
    bias = main.add_parameter("bias", Shape(F32, (4,)))
    turned = main.add_instruction(ops.Transpose((0, 2, 1)), x)
    scores = main.add_instruction(ops.Dot(), x, turned)
    soft = main.add_instruction(ops.Softmax(2), scores)
    mixed = main.add_instruction(ops.Dot(), soft, x)
    spread = main.add_instruction(ops.Multibroadcast((N, M, 4)), bias)
    added = main.add_instruction(ops.Add(), mixed, spread)
    folded = main.add_instruction(ops.Reshape((N * M * 4,)), added)
    sizes = main.add_instruction(ops.DimLiteral((N, M, N * M * 4), (3,)))
    main.add_return(folded, y, sizes, names=["z", "y", "sizes"])
    return program


def expected(x: np.ndarray[Any, Any], bias: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    scores = np.exp(x @ x.transpose(0, 2, 1))
    soft = scores / scores.sum(2, keepdims=True)
    return np.asarray(soft @ x + bias).reshape(-1)


def drawn(n: int, m: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng([seed, n, m])
    shapes = {"x": (n, m, 4), "y": (2 * n, m), "bias": (4,)}
    return {name: rng.standard_normal(dims).astype(np.float32) for name, dims in shapes.items()}


SIZES = [(1, 1), (2, 3), (3, 2), (1, 7), (5, 1), (0, 3), (2, 0), (2, 3)]


def check(program: Program, n: int, m: int, seed: int = 0) -> None:
    inputs = drawn(n, m, seed)
    z, y, sizes = program.eval(inputs)
    np.testing.assert_allclose(z, expected(inputs["x"], inputs["bias"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, inputs["y"])
    assert sizes.tolist() == [n, m, n * m * 4]


def test_one_program_runs_at_all_sizes_one_after_another() -> None:
    program = attention().compile("ref")
    for n, m in SIZES:
        check(program, n, m)
    assert program.main.output_names == ("z", "y", "sizes")


def test_runs_from_eight_threads_do_not_meet() -> None:
    program = attention().compile("ref")

    def work(worker: int) -> int:
        for turn in range(25):
            check(program, 1 + (worker + turn) % 4, 1 + worker % 3, seed=worker)
        return worker

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))


def test_compiling_changes_nothing() -> None:
    program = attention()
    program.main.add_instruction(ops.Exp(), program.main.parameters["x"])
    before, text = program.copy(), str(program)
    program.compile("ref").eval(drawn(2, 3))
    assert program == before
    assert str(program) == text
    # What was compiled is a program of its own: editing this one does not reach it.
    made = program.compiled
    program.main.add_return(program.main.parameters["y"])
    assert len(made.eval(drawn(2, 3))) == 3
    assert len(program.compile("ref").eval(drawn(2, 3))) == 1


def test_what_was_compiled_is_not_run_for_a_program_that_has_been_changed(tmp_path: Path) -> None:
    x, main = drawn(2, 3), attention().compile("ref").main
    program = main.program
    stale = pytest.raises(
        IRError, match=r"changed since it was compiled: call program\.compile\(\)"
    )
    with pytest.raises(IRError):  # a change that is refused is none
        main.replace_instruction(main.outputs[0], main.parameters["x"])
    program.eval(x)
    for change in (
        lambda: main.add_return(*main.outputs[:1]),
        lambda: main.replace_instruction(
            main.outputs[0], main.add_instruction(ops.Identity(), main.outputs[0])
        ),
        lambda: main.add_instruction(ops.Exp(), main.parameters["x"]),
        lambda: migx.run_passes(program, "dead_code_elimination"),
    ):
        change()
        for use in (
            lambda: program.eval(x),
            program.update_weights,
            lambda: program.finalize("ref"),
            lambda: migx.save(program, tmp_path / "x.mxr"),
        ):
            with stale:
                use()
        assert len(program.compile("ref").eval(x)) == 1


def test_run_is_eval_and_gives_the_same_again() -> None:
    program = attention().compile("ref")
    first, again = program.run(drawn(2, 3)), program.eval(drawn(2, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_passes_can_be_chosen_and_watched() -> None:
    program, timed = attention(), Time()
    program.main.insert_instruction(program.main.returned, ops.Exp(), program.main.parameters["x"])
    program.compile("ref", passes="", observers=[timed])
    assert timed.rows == []
    assert "exp" in [at.name for at in program.executable.program.main]
    program.compile("ref", passes="dead_code_elimination", observers=[timed])
    assert [name for name, *_ in timed.rows] == ["dead_code_elimination"]
    assert "exp" not in [at.name for at in program.executable.program.main]
    program.finalize("ref")
    assert "exp" not in [at.name for at in program.executable.program.main]
    lowered_by_hand = program.copy().finalize("ref")
    assert "exp" in [at.name for at in lowered_by_hand.executable.program.main]


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(IRError, match=r"not compiled: call program.compile\(\) first"):
        attention().eval({})
    with pytest.raises(UnknownName, match=r"no pass named 'gpu::lowr'; there are: gpu::lower$"):
        migx.run_passes(Program(), "gpu::lowr")
    with pytest.raises(UnknownName, match="no pass named 'gpv::lower': no target 'gpv'; there are"):
        migx.run_passes(Program(), "gpv::lower")
    with pytest.raises(UnknownName, match=r"no targets? named 'tpu'; there are: .*ref"):
        attention().compile("tpu")
    program = attention()
    list(program.main)[4].shape = Shape(F32)
    with pytest.raises(VerifyError, match="shapes: in module main"):
        program.compile("ref")


LISTED = r"the inputs are x: f32\[n, m, 4\], y: f32\[2\*n, m\], bias: f32\[4\]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.zeros(3)}, rf"there is no input 'z'; {LISTED}"),
        ({"bias": None}, rf"missing input 'bias'; {LISTED}"),
        ({"x": np.zeros((2, 3, 4))},
         r"input 'x' is f64\[2, 3, 4\], but f32\[n, m, 4\] is wanted: convert it to f32"),
        ({"x": np.zeros((2, 3), np.float32)},
         r"input 'x' is f32\[2, 3\], of rank 2; f32\[n, m, 4\] has rank 3"),
        ({"x": np.zeros((2, 3, 5), np.float32)}, r"input 'x' is f32\[2, 3, 5\]: dim 2 must be 4"),
        ({"bias": np.zeros(5, np.float32)}, r"input 'bias' is f32\[5\]: dim 0 must be 4"),
        ({"y": np.zeros((4, 2), np.float32)}, "dim m is 3 in x and 2 in y"),
        ({"y": np.zeros((5, 3), np.float32)}, r"dim 0 of y is 5, but 2\*n is 4"),
        ({"bias": [[1.0], [2.0, 3.0]]}, "input 'bias' is no array: .*rows differ"),
        ({"bias": np.zeros(4, np.complex64)}, "input 'bias' is no array: no element type"),
        ({"bias": "four"}, r"input 'bias' is str\[\], but f32\[4\] is wanted"),
    ],
)  # fmt: skip
def test_inputs_that_are_wrong(change: dict[str, Any], message: str) -> None:
    program = attention().compile("ref")
    inputs = {k: v for k, v in {**drawn(2, 3), **change}.items() if v is not None}
    for _ in range(2):  # before right ones have been seen, and after
        with pytest.raises(InputError, match=message):
            program.eval(inputs)
        check(program, 2, 3)


def test_an_array_of_texts_holds_texts() -> None:
    """Whatever arrays were right before: those of objects are looked at each time."""
    program = migx.parse("module main(x: str[2]) {\n  return x\n}").compile("ref")
    for _ in range(2):
        assert program.eval({"x": np.array(["a", "b"], object)})[0].tolist() == ["a", "b"]
        with pytest.raises(InputError, match="'x' is no array: ndarray of NoneType and int is"):
            program.eval({"x": np.array([None, 3], object)})


def test_other_byte_orders_are_other_types() -> None:
    program = attention().compile("ref")
    inputs = drawn(2, 3)
    wanted = program.eval(inputs)
    swapped = {name: x.astype(x.dtype.newbyteorder()) for name, x in inputs.items()}
    for got, want in zip(program.eval(swapped), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def test_inputs_are_given_by_name() -> None:
    program = attention().compile("ref")
    for given in ([np.zeros(3)], np.zeros(3)):
        with pytest.raises(InputError, match=rf"inputs are given by name, as a dict; {LISTED}"):
            program.eval(given)  # type: ignore[arg-type]


def test_a_dim_out_of_its_bounds() -> None:
    program = Program()
    program.main.add_return(program.main.add_parameter("x", Shape(F32, (Dim("n", 2, 4),))))
    program.compile("ref")
    for size in (1, 5):
        with pytest.raises(InputError, match=f"dim n is {size} in x, outside its bounds 2..4"):
            program.eval({"x": np.zeros(size, np.float32)})


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_sizes_that_an_operation_refuses_are_drawn(target: str) -> None:
    program = Program()
    main = program.main
    a, b = (main.add_parameter(name, Shape(F32, (d, 2))) for name, d in (("a", N), ("b", M)))
    main.add_return(main.add_instruction(ops.Add(), a, b, origins=("layer/Add",)))
    program.compile(target)
    both = [np.ones((size, 2), np.float32) for size in (3, 4)]
    assert program.eval({"a": both[0], "b": both[0]})[0].sum() == 12
    with pytest.raises(InputError) as caught:
        program.eval({"a": both[0], "b": both[1]})
    assert str(caught.value).splitlines() == [
        "with n=3, m=4: add needs equal dims, got f32[3, 2] and f32[4, 2]",
        "  add(a, b)",
        "  ^^^",
        "  a : f32[n, 2]",
        "  b : f32[m, 2]",
        "  in module main, from ONNX 'layer/Add'",
    ]


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_what_no_size_fits_is_drawn_where_others_are_known_later(target: str) -> None:
    program = migx.parse("""module main(x: f32[1, 1], r: i64[2], y: f32[n]) {
  %0 = multibroadcast(x, r) {out_lens=(count, n - 2)}
  return %0, y
}
""").compile(target)
    given = {"x": np.zeros((1, 1), np.float32), "r": np.array([3, 1])}
    assert program.eval({**given, "y": np.zeros(3, np.float32)})[0].shape == (3, 1)
    with pytest.raises(
        MigxError, match=r"a dim cannot be negative: -1 (.|\n)*multibroadcast\(x, r\)"
    ):
        program.eval({**given, "y": np.zeros(1, np.float32)})


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_sizes_are_said_in_the_order_they_stand_in(target: str) -> None:
    """Those of the instruction that refuses them, and no others."""
    program = migx.parse("""module main(y: f32[k], x: f32[n, h, c]) {
  %0 = slice(x) {axes=(1,), starts=(2,), ends=(3,)}
  return %0, y
}
""").compile(target)
    with pytest.raises(InputError, match=r"^with n=1, h=2, c=4: slice: 2 to 3 is not within"):
        program.eval({"y": np.zeros(5, np.float32), "x": np.zeros((1, 2, 4), np.float32)})


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_a_size_that_would_make_a_dim_negative_is_drawn(target: str) -> None:
    program = migx.parse("""module main(x: f32[n]) {
  %0 = slice(x) {axes=(0,), starts=(2,), ends=(n,)}
  return %0
}
""").compile(target)
    assert program.eval({"x": np.arange(3, dtype=np.float32)})[0].tolist() == [2]
    said = r"(?s)^with n=1: slice: 2 to 1 is not within axis 0 of f32\[1\].*\n  slice\(x\)"
    with pytest.raises(InputError, match=said):
        program.eval({"x": np.zeros(1, np.float32)})


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_a_tuple_is_given_as_outputs_come(target: str) -> None:
    program = migx.parse("""module main(x: tuple(f32[2], i64[n])) {
  %0 = get_tuple_elem(x)
  %1 = get_tuple_elem(x) {index=1}
  %2 = relu(%0)
  %3 = neg(%1)
  return %2, %3, x
}
""").compile(target)
    given: Any = [np.array([-1, 2], np.float32), range(3)]
    relu, neg, whole = program.eval({"x": given})
    assert (relu.tolist(), neg.tolist()) == ([0, 2], [0, -1, -2])
    assert program.eval({"x": whole})[1].tolist() == [0, -1, -2]
    assert program.eval({"x": [given[0], range(2)]})[1].tolist() == [0, -1]
    wrong: Any
    for wrong, message in (
        (3, "input 'x' is int, but a tuple of 2 is wanted, tuple(f32[2], i64[n])"),
        ([3.0], "input 'x' is 1 values, but a tuple of 2 is wanted"),
        (([1.0, 2.0], [1.0]), "input 'x[1]' is f32[1], but i64[n] is wanted"),
        (Argument.tuple([Argument.of(1.0)] * 2), "input 'x[0]' is f32[], of rank 0"),
        (([1.0], [1]), "input 'x[0]' is f32[1]: dim 0 must be 2"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            program.eval({"x": wrong})


def test_an_instruction_that_fails_is_drawn() -> None:
    program = migx.parse("""module main(x: f32[3], i: i64[1]) {
  %0 = gather(x, i) : f32[1]
  return %0
}
""")
    list(program.main)[2].origins = ("pick",)
    program.compile("ref")
    x = np.float32([1, 2, 3])  # type: ignore[arg-type]
    assert program.eval({"x": x, "i": [-1]})[0].tolist() == [3]
    with pytest.raises(EvaluationError, match=r"(?s)7.*\n  gather\(x, i\)\n  \^.*ONNX 'pick'"):
        program.eval({"x": x, "i": [7]})


def test_a_result_too_large_for_the_memory_is_drawn() -> None:
    program = Program()
    x = program.main.add_parameter("x", Shape(F32, ()))
    wide = program.main.add_instruction(ops.Multibroadcast((1 << 24, 1 << 24)), x)
    program.main.add_return(program.main.add_instruction(ops.Neg(), wide))
    with pytest.raises(EvaluationError, match=r"takes 1125899906842624 bytes[\s\S]*neg"):
        program.compile("ref").eval({"x": 1.0})


def test_lists_numbers_and_arguments_are_inputs_too() -> None:
    program = migx.parse("module main(a: f32[2], b: i64[], c: f16[2]) {\n  return a, b, c\n}\n")
    c = Argument.of([1.5, 2.5], "f16")
    results = program.compile("ref").eval({"a": [1.0, 2.0], "b": 3, "c": c})
    assert [r.dtype.name for r in results] == ["float32", "int64", "float16"]
    assert [r.tolist() for r in results] == [[1, 2], 3, [1.5, 2.5]]


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("f32", [1, 2], ""),
        ("f64", [0.1, 2], ""),
        ("f16", [1, -0.5], ""),
        ("i32", range(2), ""),
        ("u8", [300, 1], "300 is no element of u8"),
        ("f16", [1, 70000], "70000 is no element of f16"),
        ("i64", [1.0, 2.0], r"is f32\[2\], but i64\[n\] is wanted"),
        ("f32", [True, False], r"is bool\[2\], but f32\[n\] is wanted"),
        ("bool", [1, 0], r"is i64\[2\], but bool\[n\] is wanted"),
        ("i64", [], ""),
        ("bool", [], ""),
        ("f32", np.float64(1), r"is f64\[\], but f32\[n\] is wanted"),
        ("f64", np.zeros(2, np.float32), r"is f32\[2\], but f64\[n\] is wanted"),
        ("f32", np.zeros(2, np.int64), r"is i64\[2\], but f32\[n\] is wanted"),
    ],
)
def test_python_numbers_become_the_type_of_their_input(
    dtype: str, value: Any, message: str
) -> None:
    """As from JSON, where a whole number has no point; arrays have types of their own."""
    program = migx.parse(f"module main(x: {dtype}[n]) {{\n  return x\n}}\n").compile("ref")
    if message:
        with pytest.raises(InputError, match=message):
            program.eval({"x": value})
        return
    (got,) = program.eval({"x": value})
    assert got.dtype == DType.of(dtype).numpy
    np.testing.assert_array_equal(got, np.array(list(value), got.dtype))


def test_strides_of_inputs_do_not_matter() -> None:
    program = attention().compile("ref")
    inputs = drawn(2, 3)
    turned = np.asfortranarray(inputs["x"])
    assert not turned.flags.c_contiguous
    first, second = (program.eval({**inputs, "x": x})[0] for x in (inputs["x"], turned))
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_outputs_of_every_kind() -> None:
    program = Program()
    main = program.main
    packed = main.add_literal(Argument.packed(Shape("i4", (3,)), b"\x21\x03"))
    x = main.add_parameter("x", Shape(F32, (3,)))
    main.add_return(packed, main.add_instruction(ops.Topk(2, 0), x), x, x)
    assert main.output_names == ("output_0", "output_1", "output_2", "output_3")
    four, pair, same, again = program.compile("ref").eval({"x": [1.0, 3.0, 2.0]})
    assert isinstance(four, Argument)
    assert four.array.tolist() == [0x21, 0x03]
    assert [part.tolist() for part in pair] == [[3, 2], [1, 2]]
    assert same.tolist() == again.tolist() == [1, 3, 2]


def test_deferred_weights_have_no_value_yet() -> None:
    program = Program()
    weight = ops.OnnxExternalWeights("w", "w.bin", 0, 12, Shape(F32, (3,)))
    program.main.add_return(program.main.add_instruction(weight))
    with pytest.raises(WeightError, match=r"1 weight has no value yet, 'w'"):
        program.compile("ref").eval({})


def test_a_file_of_text_runs(tmp_path: Path) -> None:
    file = tmp_path / "program.migx"
    file.write_text(str(attention()), "utf-8")
    program = migx.parse(file.read_text("utf-8"), folder=tmp_path)
    check(program.compile("ref"), 2, 3)
    assert program.main.parameters["x"].shape == Shape(F32, (N, M, 4))
    assert [o.shape.dtype for o in program.main.outputs] == [F32, F32, I64]


@pytest.mark.parametrize("target", ["ref", "cpu"])
@pytest.mark.parametrize("n", [1, 3])
def test_elements_of_an_output_do_not_lie_on_each_other(target: str, n: int) -> None:
    program = migx.parse("""
    module main(x: f32[n, 1]) {
      %0 = relu(x)
      %1 = multibroadcast(%0) {out_lens=(3, 4)}
      return %1
    }
    """)
    (result,) = program.compile(target).eval({"x": np.ones((n, 1), np.float32)})
    result[0, 0] = 5
    assert result.sum() == 16

"""Programs run by kernels for some instructions, and by the meaning of the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import migx
from migx.binding import Sizes
from migx.errors import EvaluationError, FieldError, InputError
from migx.meaning import Kernel, by_meaning, laid_out, run_with_kernels
from migx.op import Array, Modules, Op, Shapes
from migx.ops.builtin import Slot
from migx.shape import Shape
from migx.target import Context, Target, get_target

TEXT = """
module main(x: f32[n, 2], c: bool[]) {
  %0 = add(x, x) : f32[n, 2]
  %1 = if(c) {outputs=(f32[n, 2],)} [yes, no] : tuple(f32[n, 2])
  %2 = get_tuple_elem(%1) {index=0} : f32[n, 2]
  return %2
}
module yes() {
  %0 = add(main:%0, main:x) : f32[n, 2]
  return %0
}
module no() {
  %0 = neg(main:%0) : f32[n, 2]
  return %0
}
"""
CONTEXT = Context(get_target("ref"))


@pytest.mark.parametrize("way", [True, False])
def test_what_has_no_kernel_runs_by_its_meaning(way: bool) -> None:
    program, calls = migx.parse(TEXT), list[str]()

    def add(x: Array, y: Array) -> Array:
        calls.append("add")
        return x + y

    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    given = {"c": migx.Argument.of(np.array(way)), "x": migx.Argument.of(x)}
    seen = list[str]()
    (got,) = run_with_kernels(
        program,
        lambda at: add if at.name == "add" else None,
        CONTEXT,
        given,
        seen=lambda at, result: seen.append(f"{at.name} {result.shape.text}"),
    )
    np.testing.assert_array_equal(got.array, 3 * x if way else -2 * x)
    inside = "add f32[3, 2]" if way else "neg f32[3, 2]"
    whole = "if tuple(f32[3, 2])", "get_tuple_elem f32[3, 2]"
    assert sorted(seen[:2]) == ["@param bool[]", "@param f32[3, 2]"]
    assert seen[2:] == ["add f32[3, 2]", inside, *whole]
    assert calls == ["add"] * (2 if way else 1)


def by_relu(kernel: Kernel) -> migx.Argument:
    """What a program gives for -1 with such a kernel of ``relu``; ``tanh`` reads that."""
    text = "module main(x: f32[n]) { %0 = relu(x) %1 = tanh(%0) return %1 }"
    given = {"x": migx.Argument.of(np.array([-1], np.float32))}
    program = migx.parse(text)
    try:
        (got,) = run_with_kernels(
            program, lambda at: kernel if at.name == "relu" else None, CONTEXT, given
        )
    finally:
        assert given["x"].tolist() == [-1]
    return got


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (lambda x: x.astype(np.float64), "computed f64[1], its shape rule says f32[1]"),
        (lambda x: x[:0], "computed f32[0], its shape rule says f32[1]"),
        (lambda x: None, "NoneType is neither numbers nor text"),
    ],
)
def test_a_kernel_that_gives_something_else_is_drawn(kernel: Kernel, said: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        by_relu(kernel)
    first, line, *_ = str(caught.value).splitlines()
    assert (first, line) == (f"the kernel of relu: {said}", "  relu(x)")


def test_what_a_kernel_raises_says_where() -> None:
    with pytest.raises(ValueError, match="read-only") as caught:
        by_relu(lambda x: np.maximum(x, 0, out=x))
    (note,) = caught.value.__notes__
    assert note.startswith("raised by the kernel of\n  relu(x)\n")
    with pytest.raises(TypeError, match="required positional argument"):
        by_relu(lambda x, y: x)


def test_sizes_that_a_kernel_finds_are_known_behind_it() -> None:
    text = "%0 = nonzero(x) {count=found} %1 = reshape(%0) {dims=(found,)} return %1"
    program = migx.parse(f"module main(x: f32[n]) {{ {text} }}")
    given = {"x": migx.Argument.of(np.array([0, 2, 3], np.float32))}

    def found(x: Array) -> Array:
        return np.stack(np.nonzero(x))

    (got,) = run_with_kernels(
        program, lambda at: found if at.name == "nonzero" else None, CONTEXT, given
    )
    assert got.tolist() == [1, 2]


def test_a_kernel_may_be_given_sizes_and_return_several_results() -> None:
    """Sizes as they become known: that of ``found`` only once ``nonzero`` has been computed."""
    program = migx.parse("""
module main(x: f32[n], y: f32[2*n + 1]) {
  %0 = nonzero(x) {count=found}
  %1 = reshape(%0) {dims=(found,)}
  %2 = topk(y) {k=1, axis=0}
  %3 = get_tuple_elem(%2)
  %4 = get_tuple_elem(%2) {index=1}
  return %1, %3, %4
}
""")
    seen = list[tuple[str, dict[str, int]]]()

    def kernels(at: migx.Instruction, sizes: Sizes) -> Kernel | None:
        seen.append((at.name, dict(sizes)))
        best = [np.zeros(shape.bind(sizes).dims, np.float32) for shape in at.shape.parts[:1]]
        return (lambda y: (*best, np.array([4]))) if at.name == "topk" else None

    given = {"x": [0, 2, 3], "y": [0] * 7}
    arguments = {n: migx.Argument.of(np.array(v, np.float32)) for n, v in given.items()}
    got = run_with_kernels(program, kernels, CONTEXT, arguments)
    assert [value.tolist() for value in got] == [[1, 2], [0], [4]]
    assert seen[:2] == [("nonzero", {"n": 3}), ("reshape", {"n": 3, "found": 2})]
    topk = next(at for at in program.main if at.name == "topk")
    wrong: dict[str, Kernel] = {"ndarray": lambda y: y, "1": lambda y: (y,)}
    for said, kernel in wrong.items():
        with pytest.raises(EvaluationError, match=f"kernel of topk: returns {said}, not a tuple"):
            run_with_kernels(
                program, lambda at, of=kernel: of if at is topk else None, CONTEXT, arguments
            )


@pytest.mark.parametrize("strides", [None, (1, 2, 6), (0, 0, 1), (0, 3, 1), (8, 2, 0)])
def test_an_array_is_laid_out_as_a_shape_says(strides: tuple[int, ...] | None) -> None:
    shape = Shape("f32", (2, 3, 2), strides)
    x = np.broadcast_to(np.arange(2, dtype=np.float32), (2, 3, 2))
    if shape.true_strides[-1] == 0:
        x = np.zeros((2, 3, 2), np.float32)
    made = laid_out(np.asfortranarray(x), shape)
    assert np.array_equal(made, x)
    assert made.strides == tuple(4 * int(step) for step in shape.true_strides)
    assert laid_out(made, shape) is made
    assert laid_out(made[:0], Shape("f32", (0, 3, 2))).shape == (0, 3, 2)
    unaligned = np.frombuffer(b"-" + made[..., 0].tobytes(), np.float32, offset=1)
    assert laid_out(unaligned, Shape("f32", (6,))).flags.aligned


def test_what_is_not_given_is_said() -> None:
    main = migx.parse(TEXT).main
    at = next(at for at in main if at.name == "if")
    given = [migx.Argument.of(np.array(True))]
    with pytest.raises(EvaluationError, match="if needs its 2 modules, each through as_function"):
        by_meaning(at, at.op, CONTEXT, at.shape, given)
    slot = main.insert_instruction(at, Slot("w", Shape("f32", (2,))))
    with pytest.raises(EvaluationError, match="slot 'w' is not computed here"):
        by_meaning(slot, slot.op, CONTEXT, slot.shape, ())


@pytest.mark.parametrize(
    ("line", "message", "drawn"),
    [
        ("gather(x, %0)", "gather: index 1 is outside axis 0", "gather(x, %0)"),
        ("reshape(x) {dims=(n, 6*n//(3*n*n))}", "with n=0: (6*n)//(3*n*n)", "reshape(x)"),
    ],
)
def test_what_the_sizes_do_not_fit_is_drawn(line: str, message: str, drawn: str) -> None:
    program = migx.parse(
        "module main(x: f32[n, 2]) {\n"
        f"  %0 = @literal() {{value=[1]}} : i64[]\n  %1 = {line}\n  return %1\n}}"
    )
    given = {"x": migx.Argument.of(np.empty((0, 2), np.float32))}
    ran: list[Callable[[], object]] = [
        lambda: run_with_kernels(program, lambda at: None, CONTEXT, given),
        lambda: program.compile("ref", passes="").eval(given),
    ]
    for run in ran:
        with pytest.raises((EvaluationError, InputError)) as caught:
            run()
        first, line, caret, *_ = str(caught.value).splitlines()
        assert first.startswith(message)
        assert line.startswith(f"  {drawn}")
        assert caret == "  " + "^" * len(drawn.partition("(")[0])


class Mine(Target):
    """Has an option."""

    tile: int = 64


def test_the_options_of_a_target_are_its_fields() -> None:
    assert (Mine().tile, Mine(tile=3).tile, Mine(3) == Mine(tile=3)) == (64, 3, True)
    assert get_target("cpu") != get_target("cpu")
    with pytest.raises(FieldError, match="target mine: tile is int, not '3'"):
        Mine(tile="3")  # type: ignore[arg-type]


def test_an_instruction_is_shown_as_in_its_module() -> None:
    program = migx.parse(TEXT)
    x, *_, choice, _ = (at for at in program.main if at.name != "@return")
    assert str(x) == "x : f32[n, 2]"
    assert str(choice) == "%1 = if(c) {outputs=(f32[n, 2],)} [yes, no] : tuple(f32[n, 2])"
    assert str(program.modules["yes"].outputs[0]) == "%0 = add(main:%0, main:x) : f32[n, 2]"
    assert all(str(at) in str(program) for at in program.main if at.name != "@param")
    program.main.outputs[0].origins = ("choose",)
    assert repr(program.main.outputs[0]) == "<get_tuple_elem f32[n, 2] from choose>"
    assert str(program.main.outputs[0]).endswith(': f32[n, 2] from "choose"')


SIZED = {
    "plain": "module main(x: f32[n], y: f32[m]) { %0 = add(x, y) return %0 }",
    "fused": """module main(x: f32[n], y: f32[m]) { %0 = pointwise(x, y) [body] return %0 }
module body(a: f32[n], b: f32[m]) bypass { %0 = add(a, b) return %0 }""",
    "told": """module main(x: f32[n], y: f32[m]) {
  %0 = nonzero(x) {count=told} : i64[1, told]
  %1 = convert(%0) {to=f32}
  %2 = reshape(%1) {dims=(told,)}
  %3 = add(%2, y)
  return %3
}""",
}


@pytest.mark.parametrize("text", SIZED.values(), ids=SIZED)
def test_a_kernel_is_not_given_sizes_that_the_shape_rule_refuses(text: str) -> None:
    """A kernel of numpy would repeat the single element."""

    def run(y: int) -> Array:
        sized = {"x": np.ones(3, np.float32), "y": np.ones(y, np.float32)}
        given = {name: migx.Argument.of(value) for name, value in sized.items()}
        kernels = {"add": np.add, "pointwise": np.add}
        program = migx.parse(text)
        return run_with_kernels(program, lambda at: kernels.get(at.name), CONTEXT, given)[0].array

    assert run(3).shape == (3,)
    with pytest.raises(migx.MigxError, match=r"add needs equal dims, got f32\[3\] and f32\[1\]"):
        run(1)


def test_an_operation_without_a_meaning_runs_by_its_kernel_or_is_an_error_that_draws_it() -> None:
    class Doubled(Op):
        """x + x, by a kernel."""

        def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
            return shapes[0]

    program = migx.Program()
    x = program.main.add_parameter("x", Shape("f32", (2,)))
    program.main.add_return(program.main.add_instruction(Doubled(), x))
    given = {"x": migx.Argument.of(np.ones(2, np.float32))}
    (got,) = run_with_kernels(program, lambda at: lambda x: x + x, CONTEXT, given)
    assert got.array.tolist() == [2, 2]
    with pytest.raises(EvaluationError, match=r"only exists to be lowered\n  doubled\(x\)"):
        run_with_kernels(program, lambda at: None, CONTEXT, given)


@pytest.mark.parametrize("target", ["ref", "cpu"])
def test_a_size_that_nothing_tells_is_named(target: str) -> None:
    program = migx.parse("""
    module main(x: f32[n]) {
      %0 = @literal() {value=[1.0, 2.0]} : f32[2]
      %1 = multibroadcast(%0) {out_lens=(batch, 2)}
      return %1
    }""").compile(target)
    message = r"no parameter or earlier result tells the size of batch, .*\n  multibroadcast\(%0\)"
    with pytest.raises(EvaluationError, match=message):
        program.eval({"x": np.ones(3, np.float32)})

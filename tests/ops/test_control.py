"""if, loop and scan: their shape rules on real modules, their meanings with Python functions as
modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from migx.argument import Argument
from migx.dim import Dim
from migx.errors import EvaluationError, ShapeError
from migx.ir import Module
from migx.op import result_of, traits
from migx.ops.control import If, Loop, Scan
from migx.ops.layout import Concat, Unsqueeze
from migx.ops.pointwise import Add
from migx.program import Program
from migx.shape import Shape
from tests.ops.peers import onnx_node

Array = NDArray[Any]
N, M = Dim("n"), Dim("m")
COUNT, GOING, NONE = Shape("i64"), Shape("bool"), Shape.opaque("optional")
UNDEFINED = Argument(NONE)
F3, FN = Shape("f32", (3,)), Shape("f32", (N,))


def module(
    parameters: Sequence[Shape], returned: Sequence[int | Shape], name: str = "body"
) -> Module:
    """A module that returns parameters, by number, and values of its own, by shape."""
    program = Program()
    made = program.create_module(name)
    taken = [made.add_parameter(f"p{i}", shape) for i, shape in enumerate(parameters)]
    own = [r for r in returned if isinstance(r, Shape)]
    outer = [program.main.add_parameter(f"x{i}", shape) for i, shape in enumerate(own)]
    made.add_return(*(taken[r] if isinstance(r, int) else outer[own.index(r)] for r in returned))
    return made


def body(function: Callable[..., Sequence[Any]]) -> Callable[[Sequence[Argument]], list[Argument]]:
    """A module at run time that is a function of arrays."""
    return lambda arguments: [
        Argument.of(np.asarray(v)) for v in function(*(a.array for a in arguments))
    ]


def run(
    op: Any, shape: Shape, arguments: Sequence[Any], *functions: Callable[..., Sequence[Any]]
) -> list[Any]:
    """The results as lists; their types checked against the shape."""
    given = [a if isinstance(a, Argument) else Argument.of(np.asarray(a)) for a in arguments]
    result = result_of(op, shape, given, modules=[body(f) for f in functions])
    assert [(p.shape.dtype, p.shape.rank) for p in result.parts] == [
        (p.dtype, p.rank) for p in shape.parts
    ]
    assert result.shape.may_match(shape)
    return [part.tolist() for part in result.parts]


def test_if_takes_one_of_two() -> None:
    shape = Shape.tuple(COUNT, Shape("f32", (M,)))
    sides = (lambda: [np.array(1), np.ones(2, "f4")], lambda: [np.array(2), np.zeros(3, "f4")])
    assert run(If(), shape, [np.array(True)], *sides) == [1, [1, 1]]
    assert run(If(), shape, [np.array([False])], *sides) == [2, [0, 0, 0]]


def test_shape_of_if() -> None:
    same, other = module([], [F3, COUNT]), module([], [F3, COUNT])
    assert If().compute_shape([GOING], [same, other]) == Shape.tuple(F3, COUNT)
    strided = module([], [Shape("f32", (2, N), (1, 2))])
    assert If().compute_shape([GOING], [strided, strided]) == Shape.tuple(Shape("f32", (2, N)))
    given = If((Shape("f32", (M,)),))
    assert given.compute_shape([GOING], [module([], [F3]), module([], [FN])]) == Shape.tuple(
        *given.outputs
    )
    # n means one size here and another there, so n + 1 may be it.
    longer = module([], [Shape("f32", (N + 1,))])
    assert If((FN,)).compute_shape([GOING], [longer, longer]) == Shape.tuple(FN)


def grown(program: Program) -> Module:
    """A body that appends the iteration, as i64[1], to an i64[n] it carries and scans."""
    made = program.create_module("grown")
    iteration = made.add_parameter("iteration", COUNT)
    going = made.add_parameter("going", GOING)
    carried = made.add_parameter("carried", Shape("i64", (N,)))
    row = made.add_instruction(Unsqueeze((0,)), iteration)
    longer = made.add_instruction(Concat(0), carried, row)
    made.add_return(going, longer, made.add_instruction(Add(), iteration, iteration))
    return made


def test_shape_of_loop() -> None:
    kept = module([COUNT, GOING, F3], [1, 2])
    assert Loop().compute_shape([COUNT, GOING, F3], [kept]) == Shape.tuple(F3)
    assert Loop().compute_shape([NONE, NONE, F3], [kept]) == Shape.tuple(F3)
    assert Loop().compute_shape(
        [Shape("i64", (1,)), NONE, FN], [module([COUNT, GOING, FN], [1, 2])]
    ) == Shape.tuple(FN)
    outputs = Shape("i64", (M,)), Shape("i64", (Dim("count"),))
    shape = Loop(outputs).compute_shape([COUNT, GOING, Shape("i64", (2,))], [grown(Program())])
    assert shape == Shape.tuple(*outputs)


def test_loop_ends_by_count_or_condition() -> None:
    shape = Shape.tuple(COUNT, Shape("i64", (N,)), Shape("f32", (N, 2)))

    def step(i: Array, going: Array, total: Array) -> list[Any]:
        assert going
        return [total < 6, total + i, i, np.full(2, i, "f4")]

    # 0, then + 0, 1, 2, ...: the total passes 6 in iteration 3, and is 6 going in there.
    every: list[list[Any]] = [[0, 1, 2, 3, 4], [[0, 0], [1, 1], [2, 2], [3, 3], [4, 4]]]
    for trip, going, rounds in [
        (np.array(2), np.array(True), 2),
        (np.array([3]), UNDEFINED, 3),
        (UNDEFINED, np.array(True), 5),
        (np.array(9), UNDEFINED, 5),
        (UNDEFINED, UNDEFINED, 5),
        (UNDEFINED, np.array(False), 0),
        (np.array(0), np.array(True), 0),
        (np.array(-1), np.array(True), 0),
    ]:
        totals = [sum(range(i)) for i in range(6)]
        wanted = [totals[rounds], *(rows[:rounds] for rows in every)]
        assert run(Loop(), shape, [trip, going, np.array(0)], step) == wanted


def test_loop_heeds_the_condition_as_onnxruntime_does() -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["three"], value_int=3),
            helper.make_node("Less", ["i", "three"], ["going"]),
            helper.make_node("Identity", ["i"], ["row"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("before", TensorProto.BOOL, [])],
        [info("going", TensorProto.BOOL, []), info("row", TensorProto.INT64, [])],
    )
    peer = onnx_node("Loop", [np.array(8), None], body=graph)
    rows = run(
        Loop(), Shape.tuple(Shape("i64", (N,))), [np.array(8), UNDEFINED], lambda i, _: [i < 3, i]
    )
    assert rows == [peer(np.array(8), None)[0].tolist()] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("dims", [(N, 3, M), (5, 3, 0)], ids=str)
def test_loop_of_no_iterations_has_empty_scan_outputs(dims: tuple[Any, ...]) -> None:
    shape = Shape.tuple(Shape("f16", dims))
    result = result_of(Loop(), shape, [Argument.of(np.array(0)), UNDEFINED], modules=[body(list)])
    assert result.parts[0].shape == Shape("f16", (0, 3, 0))


def test_loop_carries_what_grows() -> None:
    shape = Shape.tuple(Shape("i64", (N,)))
    assert run(
        Loop(), shape, [np.array(3), UNDEFINED, np.array([7])], lambda i, c, x: [c, np.append(x, i)]
    ) == [[7, 0, 1, 2]]
    with pytest.raises(
        EvaluationError, match=r"loop: a scan output has the dims \[\(1,\), \(2,\)\]"
    ):
        run(
            Loop(),
            Shape.tuple(Shape("i64", (N, M))),
            [np.array(2), UNDEFINED],
            lambda i, c: [c, np.zeros(i + 1)],
        )


def test_shape_of_scan() -> None:
    rows, columns = Shape("f32", (N, 3)), Shape("f32", (4, M))
    inner = module([COUNT, F3, Shape("f32", (4,))], [0, 1, 2])
    op = Scan(2, (0, 1), scan_output_axes=(1, 0))
    shape = op.compute_shape([COUNT, rows, columns], [inner])
    assert shape == Shape.tuple(COUNT, Shape("f32", (3, N)), Shape("f32", (N, 4)))
    known = op.compute_shape([COUNT, rows, columns.with_dims((4, 5))], [inner])
    assert known == Shape.tuple(COUNT, Shape("f32", (3, 5)), Shape("f32", (5, 4)))


@pytest.mark.parametrize("directions", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)], ids=str)
def test_scan_is_onnx_scan(directions: tuple[int, int], axes: tuple[int, int]) -> None:
    info = helper.make_tensor_value_info
    vector = TensorProto.FLOAT, [2]
    graph = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Mul", ["t", "x"], ["y"])],
        "body",
        [info("s", *vector), info("x", *vector)],
        [info("t", *vector), info("y", *vector)],
    )
    start = np.array([1, 2], np.float32)
    x = np.arange(6, dtype=np.float32).reshape((3, 2) if axes[0] == 0 else (2, 3))
    places: dict[str, Any] = {
        "num_scan_inputs": 1,
        "scan_input_axes": axes[:1],
        "scan_output_axes": axes[1:],
        "scan_input_directions": directions[:1],
        "scan_output_directions": directions[1:],
    }
    wanted = onnx_node("Scan", [start, x], outputs=2, body=graph, **places)(start, x)
    op = Scan(**places)
    inner = module([Shape("f32", (2,))] * 2, [0, 1])
    shape = op.compute_shape([Shape("f32", (2,)), Shape("f32", x.shape)], [inner])
    found = run(op, shape, [start, x], lambda s, row: [s + row, (s + row) * row])
    assert found == [w.tolist() for w in wanted]


def test_scan_of_nothing() -> None:
    shape = Shape.tuple(COUNT, Shape("f32", (4, 0)))
    found = run(
        Scan(1, scan_output_axes=(1,)),
        shape,
        [np.array(7), np.empty((0, 4), "f4")],
        lambda s, x: [s, x],
    )
    assert found == [7, [[], [], [], []]]


def test_scan_of_inputs_of_different_lengths() -> None:
    rows = [np.ones((n, 3), np.float32) for n in (4, 5)]
    with pytest.raises(EvaluationError, match="scan needs inputs of one length, got 4, 5"):
        run(Scan(2), Shape.tuple(), rows, lambda x, y: [])


A, B = module([], [F3], "a"), module([], [FN], "b")
REFUSED: list[tuple[Any, list[Shape], list[Module], str]] = [
    (If(), [COUNT], [A, A], r"if: the condition is one bool, got i64\[\]"),
    (If(), [Shape("bool", (2,))], [A, A], r"if: the condition is one bool, got bool\[2\]"),
    (If(), [GOING], [A], "if takes 2 modules, got 1"),
    (
        If(),
        [GOING],
        [A, B],
        r"a result is f32\[3\] or f32\[n\]: say in the attribute outputs which",
    ),
    (If(), [GOING], [A, module([], [COUNT])], r"if: results are f32\[3\], but got i64\[\]"),
    (If(), [GOING], [A, module([], [])], r"results are f32\[3\], but got none"),
    (If(), [GOING], [A, module([F3], [0])], r"parameters of body are f32\[3\], but got none"),
    (If((Shape("f32", (4,)),)), [GOING], [B, A], r"outputs are f32\[4\], but got f32\[3\]"),
    (
        If((Shape("f32", (Dim("k", 4),)),)),
        [GOING],
        [A, B],
        r"outputs are f32\[k\], but got f32\[3\]",
    ),
    (Loop(), [COUNT], [A], "loop takes a trip count and a condition, got 1 input"),
    (Loop(), [F3, GOING], [A], r"the trip count is one i64, got f32\[3\]"),
    (Loop(), [COUNT, COUNT], [A], r"the condition is one bool, got i64\[\]"),
    (Loop(), [COUNT, GOING], [A], r"parameters of a are none, but got i64\[\], bool\[\]"),
    (
        Loop(),
        [COUNT, GOING, F3],
        [module([COUNT, GOING, F3], [1])],
        "body returns 1 values, not a condition and 1",
    ),
    (
        Loop(),
        [COUNT, GOING],
        [module([COUNT, GOING], [0])],
        r"condition body returns is one bool, got i64\[\]",
    ),
    (
        Loop(),
        [COUNT, GOING],
        [module([COUNT, GOING], [1, 0])],
        "loop has scan outputs: say in the attribute outputs",
    ),
    (
        Loop(),
        [COUNT, GOING, F3],
        [module([COUNT, GOING, F3], [1, FN])],
        r"a result is f32\[3\] or f32\[n\]: say",
    ),
    (
        Loop((F3,)),
        [COUNT, GOING],
        [module([COUNT, GOING], [1, F3])],
        r"scan outputs are f32\[3\], but got f32\[iterations, 3\]",
    ),
    (
        Loop((COUNT,)),
        [COUNT, GOING, F3],
        [module([COUNT, GOING, F3], [1, 2])],
        r"carried values are i64\[\], but got f32\[3\]",
    ),
    (Scan(0), [F3], [A], "scan cannot have 0 scan inputs of 1"),
    (Scan(2), [F3], [A], "scan cannot have 2 scan inputs of 1"),
    (Scan(1), [COUNT], [A], "axis 0 is not one of the 0 axes"),
    (Scan(2), [F3, Shape("f32", (4,))], [A], "scan needs inputs of one length, got 3, 4"),
    (Scan(1, (0, 0)), [F3], [A], r"\(0, 0\) are not the axes or directions of 1 values"),
    (Scan(1), [F3], [A], r"parameters of a are none, but got f32\[\]"),
    (
        Scan(1),
        [COUNT, F3],
        [module([COUNT, Shape("f32")], [1, 1])],
        r"states are i64\[\], but got f32\[\]",
    ),
]


@pytest.mark.parametrize(
    ("op", "shapes", "modules", "message"), REFUSED, ids=lambda v: getattr(v, "name", "")
)
def test_what_is_refused(op: Any, shapes: list[Shape], modules: list[Module], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.compute_shape(shapes, modules)


def test_none_is_folded_for_its_inputs_alone() -> None:
    assert not any(traits(op).foldable for op in (If(), Loop(), Scan(1)))

"""An operation of another package runs on the host; those around it keep their kernels."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx import ops
from migx.op import Array, Modules, Op, Shapes, Traits
from migx.ops.fused import Fused
from migx.ops.indexing import ScatterElements
from migx.ops.reduce import Reduce
from migx.program import Program
from migx.shape import Shape
from migx.target import CompileOptions, get_target


class Doubled(Op):
    """Twice each element."""

    traits = Traits(pointwise=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        return x + x


class ReduceSquares(Reduce):
    """The sum of the squares: its ufunc alone, which kernels would use, gives another result."""

    ufunc = np.add

    def of(self, x: Array) -> Array:
        return super().of(x * x)


EACH = pytest.mark.parametrize("op", [Doubled(), ReduceSquares((1,))], ids=lambda op: op.name)


def between_others(op: Op) -> Program:
    """The operation between arithmetic that it could be fused with."""
    program = migx.Program()
    main = program.main
    x = main.add_parameter("x", Shape("f32", (migx.Dim("n"), 4)))
    before = main.add_instruction(ops.Tanh(), main.add_instruction(ops.Relu(), x))
    made = main.add_instruction(op, before)
    after = main.add_instruction(ops.Sigmoid(), main.add_instruction(ops.Neg(), made))
    main.add_return(main.add_instruction(ops.ReduceSum((1,)), after))
    return program


@pytest.mark.parametrize("target", ["cpu", "gpu"])
@EACH
def test_it_takes_no_neighbour_to_the_host(op: Op, target: str) -> None:
    program = between_others(op)
    made = get_target(target)
    migx.run_passes(program, made.get_passes(made.get_context(), CompileOptions()))
    assert op.name in [at.name for at in program.main]
    assert not any(isinstance(at.op, Fused) and not made.supports(at) for at in program.main)


class ScatterHypot(ScatterElements):
    """The hypotenuse of each update and the element there."""

    combine = np.hypot


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_scatter_that_combines_by_another_function_has_no_kernel(target: str) -> None:
    program = migx.Program()
    x = program.main.add_parameter("x", Shape("f32", (5, 4)))
    indices = program.main.add_parameter("i", Shape("i64", (5, 4)))
    made = program.main.add_instruction(ScatterHypot(1), x, indices, x)
    assert not get_target(target).supports(made)


@EACH
def test_on_cpu_it_alone_has_no_kernel(op: Op) -> None:
    program, x = between_others(op), np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    (wanted,) = program.copy().compile("ref").eval({"x": x})
    (found,) = program.compile("cpu").eval({"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert [at.name for at in program.compiled.fallbacks()] == [op.name]

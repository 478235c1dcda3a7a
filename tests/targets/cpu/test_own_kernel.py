"""Operations of other packages, which have kernels for the cpu by a method."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import TargetError
from migx.ir import Instruction
from migx.op import Array, Modules, Op, Shapes, Traits
from migx.shape import Shape
from migx.targets.cpu.emit import F32
from migx.targets.cpu.kernel import Frame, Kernel, Rows
from migx.targets.cpu.machine import Machine


class Twice(Op):
    """x + x; a kernel for f32."""

    traits = Traits(standard_inputs=True)

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        return shapes[0].as_standard()

    def compute(self, x: Array) -> Array:
        return x + x

    @staticmethod
    def cpu_kernel(at: Instruction, machine: Machine) -> Kernel | None:
        if at.shape.dtype.name != "f32":
            return None
        frame, rows = Frame(at, machine), Rows(at.shape.elements, 1, about=4)
        f, (x, y) = frame.function, frame.operands
        with frame.rows(rows) as i:
            value = f.load(f.element(x, i, F32), F32)
            f.store(value + value, f.element(y, i, F32))
        return frame.finished("twice", rows.tiles)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_an_operation_brings_its_kernel_or_none(dtype: str) -> None:
    program = migx.Program()
    x = program.main.add_parameter("x", Shape(dtype, (migx.Dim("n"), 3)))
    turned = program.main.add_instruction(migx.ops.Transpose((1, 0)), x)
    program.main.add_return(program.main.add_instruction(Twice(), turned))
    given = np.arange(15, dtype=Shape(dtype, ()).dtype.numpy).reshape(5, 3)
    program.compile("cpu")
    for rows in (5, 1, 0):
        (y,) = program.eval({"x": given[:rows]})
        np.testing.assert_array_equal(y, 2 * given[:rows].T)
    slow = [at.name for at in program.compiled.fallbacks()]
    assert slow == ([] if dtype == "f32" else ["twice"])


def test_what_is_no_kernel_is_refused() -> None:
    class Wrong(Twice):
        @staticmethod
        def cpu_kernel(at: Instruction, machine: Machine) -> Kernel | None:
            return "text"  # type: ignore[return-value]

    program = migx.Program()
    x = program.main.add_parameter("x", Shape("f32", (3,)))
    program.main.add_return(program.main.add_instruction(Wrong(), x))
    with pytest.raises(TargetError, match="wrong: cpu_kernel returns a Kernel or None, not of ty"):
        program.compile("cpu")

"""Columns added up to images on the cpu, against ``ref``."""

from __future__ import annotations

import numpy as np
import pytest

import migx
from migx.errors import EvaluationError

Numbers = tuple[int, ...]


def program_of(columns: str, dims: str, attributes: str, dtype: str = "f32") -> migx.Program:
    return migx.parse(
        f"module main(x: {dtype}[{columns}], image: i64[r], block: i64[r]) {{\n"
        f"  %0 = col2im(x, image, block) {{dims={dims}, {attributes}}}\n  return %0\n}}\n"
    )


CASES = {
    "an image": ("1, 18, 20", (2, 6, 7), (3, 3), "padding=(0, 0, 0, 0), stride=(1, 1)", (1, 1)),
    "wide": ("2, 6, 200", (1, 4, 101), (3, 2), "padding=(0, 0, 0, 0), stride=(1, 1)", (1, 1)),
    "padded": ("1, 12, 90", (3, 9, 10), (2, 2), "padding=(1, 0, 0, 1), stride=(1, 1)", (1, 1)),
    "apart": ("1, 12, 12", (3, 9, 10), (2, 2), "padding=(0, 0, 0, 0), stride=(3, 2)", (2, 3)),
    "a row": ("2, 10, 35", (2, 70), (5,), "padding=(2, 2), stride=(2,)", (1,)),
    "a long row": ("2, 10, 75", (2, 75), (5,), "padding=(2, 6), stride=(1,)", (2,)),
    "in space": (
        *("1, 16, 24", (2, 3, 4, 5), (2, 2, 2)),
        *("padding=(0, 0, 0, 0, 0, 0), stride=(1, 1, 1)", (1, 1, 1)),
    ),
}


@pytest.mark.parametrize("dtype", ["f32", "f64", "i32"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_columns(case: tuple[str, Numbers, Numbers, str, Numbers], dtype: str) -> None:
    columns, dims, block, attributes, dilation = case
    program = program_of(columns, str(dims), f"{attributes}, dilation={dilation}", dtype)
    shape = program.main.parameters["x"].shape
    x = np.random.default_rng(1).normal(0, 9, tuple(map(int, shape.dims))).astype(shape.dtype.numpy)
    given = {"x": x, "image": np.array(dims[1:]), "block": np.array(block)}
    (wanted,) = program.copy().compile("ref").eval(given)
    for threads in (1, 2):
        compiled = program.copy().compile("cpu", num_threads=threads)
        assert compiled.compiled.fallbacks() == []
        assert compiled.eval(given)[0].tobytes() == wanted.tobytes()


def test_columns_of_other_windows_are_refused() -> None:
    program = program_of(
        "1, 18, 20", "(2, 6, 7)", "padding=(0,0,0,0), stride=(1,1), dilation=(1,1)"
    )
    program.compile("cpu")
    x = np.ones((1, 18, 20), np.float32)
    with pytest.raises(EvaluationError, match="do not come from"):
        program.eval({"x": x, "image": np.array([6, 7]), "block": np.array([3, 2])})

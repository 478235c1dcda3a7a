"""Passes that have instructions compute in another element type: what they refuse."""

from __future__ import annotations

import pytest

import migx
from migx.errors import FieldError, MigxError, ShapeError, UnknownName


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("truncate_float{to=f32}", FieldError, "to is f16 or bf16, not f32"),
        ("truncate_float{to=f16,ops=(gemm)}", UnknownName, "no operation is named 'gemm'"),
        ("eliminate_data_type{to=f32,ops=(gemm)}", UnknownName, "no operation is named 'gemm'"),
        ("eliminate_data_type{to=f32,types=(i64)}", FieldError, "f32 cannot take the place of i64"),
        ("eliminate_data_type{to=i32,types=(u32)}", FieldError, "for integers one that"),
        ("eliminate_data_type{to=i32,types=(bool)}", FieldError, "i32 cannot take the place of b"),
        ("eliminate_data_type{to=f32,types=(f32)}", FieldError, "give another float type"),
        ("eliminate_data_type{to=f31}", ShapeError, "f31"),
    ],
)
def test_types_that_cannot_be(text: str, error: type[MigxError], message: str) -> None:
    with pytest.raises(error, match=message):
        migx.run_passes(migx.Program(), text)

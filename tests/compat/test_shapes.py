"""Shapes, element types and dynamic dims as MIGraphX's Python module has them."""

from __future__ import annotations

from typing import Any

import pytest

import migx.compat.migraphx as migraphx
from migx import Dim, Shape
from migx.errors import CompatError, ParseError, ShapeError

ENUM = """
bool=0 half=1 float=2 double=3 uint8=4 int8=5 uint16=6 int16=7 int32=8 int64=9 uint32=10 uint64=11
fp8e4m3fnuz=12 fp8e4m3fn=13 fp8e5m2=14 bf16=15 fp8e5m2fnuz=16
"""
PAIRS = [pair.split("=") for pair in ENUM.split()]


@pytest.mark.parametrize(("name", "number"), PAIRS)
def test_element_types_have_their_names_and_integers(name: str, number: str) -> None:
    code = getattr(migraphx.shape.type_t, f"{name}_type")
    assert int(code) == int(number)
    for given in (name, f"{name}_type", code, int(number)):
        made = migraphx.shape(type=given, lens=[2])
        assert made.type() is code
        assert made.type_string() == f"{name}_type"
        assert made.type_size() == made.migx().dtype.bits // 8
        assert migraphx.shape.of(made.migx()) == made


def test_there_are_as_many_types_as_in_the_enum() -> None:
    assert len(migraphx.shape.type_t) == len(PAIRS)


CASES: list[tuple[dict[str, Any], list[int], str]] = [
    ({}, [1], "standard packed"),
    ({"lens": [1, 64, 3, 3]}, [576, 9, 3, 1], "standard packed"),
    ({"lens": [1, 64, 3, 3], "strides": [0, 1, 0, 0]}, [0, 1, 0, 0], "broadcasted"),
    ({"lens": [2, 3], "strides": [1, 2]}, [1, 2], "packed transposed"),
    ({"lens": [2, 3, 4], "permutation": [0, 2, 1]}, [12, 1, 3], "packed transposed"),
    ({"lens": [2, 3], "strides": [4, 1]}, [4, 1], ""),
    ({"lens": [1], "strides": [0]}, [0], "standard packed broadcasted scalar"),
    ({"lens": [4, 4], "strides": [0, 0]}, [0, 0], "broadcasted scalar"),
]


@pytest.mark.parametrize(("given", "strides", "said"), CASES)
def test_layouts(given: dict[str, Any], strides: list[int], said: str) -> None:
    made = migraphx.shape(**given)
    assert (made.strides(), made.ndim()) == (strides, len(strides))
    layouts = ("standard", "packed", "transposed", "broadcasted", "scalar")
    assert [name for name in layouts if getattr(made, name)()] == [
        name for name in layouts if name in said.split()
    ]
    assert not made.dynamic()
    assert made.dyn_dims() == []


def test_bytes_are_those_of_the_memory_spanned() -> None:
    made = migraphx.shape(type="half", lens=[4, 3], strides=[0, 2])
    assert (made.elements(), made.bytes()) == (12, 2 * 5)
    assert str(made) == "half_type, {4, 3}, {0, 2}"


def test_equal_shapes() -> None:
    assert migraphx.shape(lens=[2, 1]) == migraphx.shape(lens=[2, 1], strides=[1, 1])
    assert migraphx.shape(lens=[2, 1]) != migraphx.shape(lens=[2, 1], strides=[1, 0])
    assert migraphx.shape(lens=[2]) != migraphx.shape(lens=[2], type="half")


def test_a_scalar_of_migx_has_one_element_of_stride_0() -> None:
    made = migraphx.shape.of(Shape("f32"))
    assert (made.lens(), made.strides(), made.migx().dims) == ([1], [0], ())


def test_dynamic_dims() -> None:
    whole = migraphx.shape.dynamic_dimension()
    assert (whole.is_fixed(), whole.min, whole.max, whole.optimals) == (True, 0, 0, set())
    batch = migraphx.shape.dynamic_dimension(1, 8, {2, 4})
    three = migraphx.shape.dynamic_dimension(3, 3)
    assert not batch.is_fixed()
    made = migraphx.shape(type="float", dyn_dims=[batch, three])
    assert (made.dynamic(), made.ndim(), made.standard()) == (True, 2, False)
    assert str(made) == "dynamic, float_type, {[1..8]|{2, 4}, 3}"
    declared = made.declared("x")
    assert str(declared) == "f32[x.0, 3]"
    assert migraphx.shape.of(declared) == made
    with pytest.raises(ShapeError, match="no lens but dyn_dims"):
        made.lens()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "complex"}, "no element type 'complex'; there are bool, half"),
        ({"lens": [2], "strides": [1, 1]}, "2 strides for 1 lens"),
        ({"lens": [2, 3], "permutation": [0, 0]}, "does not permute the 2 axes"),
        ({"lens": [2], "strides": [1], "permutation": [0]}, "not both"),
        ({"lens": [-1]}, "cannot be negative"),
    ],
)
def test_what_is_no_shape_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        migraphx.shape(**given)
    with pytest.raises(ShapeError, match="0 <= min <= max"):
        migraphx.shape.dynamic_dimension(3, 2)


def test_types_of_migx_alone_are_refused() -> None:
    with pytest.raises(CompatError, match="no element type f8e8m0"):
        migraphx.shape.of(Shape("f8e8m0", (2,)))


def test_dims_that_are_computed() -> None:
    dimension = migraphx.shape.dynamic_dimension
    n = dimension("n", {"n": dimension(1, 4, {2})})
    assert (n.min, n.max, n.optimals, n.is_symbolic(), n.is_fixed()) == (1, 4, {2}, True, False)
    assert not dimension(1, 4).is_symbolic()
    for text, least, most in (("n * 3 + 1", 4, 13), ("n / 2", 0, 2), ("n - 1", 0, 3)):
        made = dimension(text, {"n": n})
        assert (made.min, made.max) == (least, most)
    p = migraphx.program()
    main = p.get_main_module()
    shapes = [migraphx.shape(dyn_dims=[each, dimension(3, 3)]) for each in (n, made)]
    x, _ = (main.add_parameter(name, s) for name, s in zip("xy", shapes, strict=True))
    assert str(x.instruction.shape) == "f32[n, 3]"
    found = p.get_parameter_shapes()
    assert [d.is_symbolic() for d in found["y"].dyn_dims()] == [True, False]
    assert [s.dyn_dims()[0].max for s in found.values()] == [4, 3]


def test_dims_that_have_no_lower_bound_begin_at_0() -> None:
    made = migraphx.shape.of(Shape("f32", (Dim("a") - Dim("b"),))).dyn_dims()[0]
    assert (made.min, made.max) == (0, 2**64 - 1)


@pytest.mark.parametrize("text", ["n - 9", "m", "n +", "n n", "n]", "", "2.5"])
def test_dims_that_cannot_be_computed(text: str) -> None:
    bounds = migraphx.shape.dynamic_dimension(1, 4)
    with pytest.raises((ParseError, ShapeError)):
        migraphx.shape.dynamic_dimension(text, {"n": bounds})

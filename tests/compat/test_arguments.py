"""Arguments as MIGraphX's Python module has them."""

from __future__ import annotations

import array
import ctypes
import gc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import migx.compat.migraphx as migraphx
from migx.errors import CompatError, DataError

Array = NDArray[Any]
ARRAYS: dict[str, Array] = {
    "whole": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    "repeated": np.broadcast_to(np.arange(3, dtype=np.uint8), (4, 3)),
    "half": np.arange(3, dtype=np.float16),
    "bool": np.array([[True], [False]]),
    "bf16": np.arange(4, dtype=ml_dtypes.bfloat16),
}
TYPES = {"half": "half", "bool": "bool", "bf16": "bf16", "transposed": "int64", "repeated": "uint8"}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(name: str) -> None:
    given = ARRAYS[name]
    made = migraphx.argument(given)
    shape = made.get_shape()
    assert shape.lens() == list(given.shape)
    assert shape.type_string() == f"{TYPES.get(name, 'float')}_type"
    moving = [s // given.itemsize for n, s in zip(given.shape, given.strides, strict=True) if n > 1]
    assert [s for n, s in zip(shape.lens(), shape.strides(), strict=True) if n > 1] == moving
    assert made.data_ptr() == given.ctypes.data
    assert np.array_equal(np.array(made), given)
    assert made.tolist() == given.reshape(-1).tolist()
    assert made == migraphx.argument(given)
    assert (made != migraphx.argument(given.copy(order="K") * 0)) == bool(given.any())


def test_memory_is_shared_and_kept_alive() -> None:
    given = np.zeros(3, np.float32)
    made = migraphx.argument(given)
    given[1] = 5
    assert made.tolist() == [0, 5, 0]
    del given
    gc.collect()
    assert made.tolist() == [0, 5, 0]
    np.asarray(made)[2] = 7
    assert memoryview(made.__buffer__(0)).tolist() == [0, 5, 7]


def test_whatever_has_a_buffer_is_taken() -> None:
    view = memoryview(array.array("f", range(6))).cast("B").cast("f", [2, 3])
    assert migraphx.argument(view).get_shape() == migraphx.shape(lens=[2, 3])
    assert migraphx.argument(bytearray(b"\1\2")).tolist() == [1, 2]
    backwards = migraphx.argument(np.arange(3, dtype=np.int32)[::-1])
    assert (backwards.tolist(), backwards.get_shape().strides()) == ([2, 1, 0], [1])
    for given in ([1.0, 2.0], migraphx.shape(lens=[2])):
        with pytest.raises(CompatError, match=r"create_argument\(shape, values\)"):
            migraphx.argument(given)


def test_a_scalar_has_one_element_of_stride_0() -> None:
    made = migraphx.argument(np.float32(2))
    assert made.get_shape() == migraphx.shape(lens=[1], strides=[0])
    assert np.array(made).shape == (1,)


def test_numbers_make_arguments() -> None:
    shape = migraphx.shape(type="int32", lens=[2, 2])
    made = migraphx.create_argument(shape, [1, 2, 3, 4])
    assert made.get_shape() == shape
    assert made.tolist() == [1, 2, 3, 4]
    assert np.array_equal(np.array(migraphx.fill_argument(shape, 7)), np.full((2, 2), 7))
    columns = migraphx.shape(type="int32", lens=[2, 2], strides=[1, 2])
    turned = migraphx.create_argument(columns, [1, 2, 3, 4])
    assert (turned.get_shape(), turned.tolist()) == (columns, [1, 2, 3, 4])
    with pytest.raises(DataError, match="has 4 elements, but 3 are given"):
        migraphx.create_argument(shape, [1, 2, 3])


# The first words are t ^ 362436069 ^ 521288629 and so on, where t is 123456789 through the shifts
# 16, 5 and 1 of the generator: 10596601668567, 60441451194812, 34516354845907, 1887644344804458036.
DRAWN: dict[str, list[Any]] = {
    "float": [0.4375, 0.75, 0.1875, 0.25],  # -1 + (z % 32) / 16
    "half": [0.4375, 0.75, 0.1875, 0.25],
    "bf16": [0.4375, 0.75, 0.1875, 0.25],
    "fp8e4m3fn": [0.4375, 0.75, 0.1875, 0.25],
    "bool": [True, False, True, False],
    "int8": [-7, -12, -3, -4],  # 16 - z % 32
    "uint8": [23, 28, 19, 20],
    "int16": [512 - 10596601668567 % 1024, 512 - 60441451194812 % 1024],
    "uint32": [10596601668567 % 2**20, 60441451194812 % 2**20],
    "int64": [2**39 - 10596601668567 % 2**40, 2**39 - 60441451194812 % 2**40],
    "uint64": [10596601668567 % 2**40, 60441451194812 % 2**40],
}


@pytest.mark.parametrize("name", DRAWN)
def test_numbers_drawn_are_those_of_migraphx(name: str) -> None:
    shape = migraphx.shape(type=name, lens=[2, 2])
    drawn = migraphx.generate_argument(shape)
    assert drawn.get_shape() == shape
    assert drawn.tolist()[: len(DRAWN[name])] == DRAWN[name]


def test_numbers_drawn_depend_on_the_seed_and_fill_the_memory() -> None:
    shape = migraphx.shape(lens=[3, 2], strides=[0, 1])
    drawn = migraphx.generate_argument(shape)
    assert drawn.tolist() == [0.4375, 0.75] * 3
    assert migraphx.generate_argument(shape, seed=1) != drawn


def test_an_address_is_an_argument() -> None:
    memory = (ctypes.c_float * 4)(1, 2, 3, 4)
    shape = migraphx.shape(lens=[2, 2])
    made = migraphx.argument_from_pointer(shape, ctypes.addressof(memory))
    memory[3] = 9
    assert made.tolist() == [1, 2, 3, 9]
    said = made.__cuda_array_interface__  # type: ignore[attr-defined]
    assert (said["data"][0], said["typestr"]) == (ctypes.addressof(memory), "<f4")
    with pytest.raises(DataError, match="at address 0"):
        migraphx.argument_from_pointer(shape, 0)


@pytest.mark.parametrize("name", ARRAYS)
def test_arguments_are_saved(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "value.mxr")
    migraphx.argument.save(migraphx.argument(ARRAYS[name]), path)
    found = migraphx.argument.load(path)
    assert np.array_equal(np.array(found), ARRAYS[name])
    assert found.get_shape().type_string() == f"{TYPES.get(name, 'float')}_type"

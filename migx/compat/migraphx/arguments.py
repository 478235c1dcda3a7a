"""MIGraphX's arguments: a shape and its data, made from anything with a buffer and read by numpy;
and its generated test data.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from migx import serialize
from migx.argument import Argument
from migx.compat.migraphx.shapes import shape
from migx.errors import CompatError, DataError
from migx.op import Array
from migx.ops.builtin import Literal
from migx.program import Program
from migx.shape import Shape


class argument:
    """A value: ``argument(array)`` shares the memory of anything with a buffer, and keeps it alive;
    ``numpy.array(argument)`` reads it. ``==`` compares shapes and elements.

    ``value`` is the migx argument. A value on a device is copied when it is read.
    """

    value: Argument

    def __init__(self, buffer: Any) -> None:
        if isinstance(buffer, argument):
            buffer = buffer.value
        self.value = buffer if isinstance(buffer, Argument) else Argument.of(_array(buffer))

    @property
    def array(self) -> Array:
        """The elements in host memory, with the dims of ``get_shape().lens()``."""
        array = _told(self.value.array)
        return array if array.ndim else as_strided(array, (1,), (0,))

    def get_shape(self) -> shape:
        if self.value.elsewhere or not self.value.shape.dtype.is_tensor:
            return shape.of(self.value.shape)
        array = _told(self.value.array)
        strides = [s // array.itemsize for s in array.strides]
        return shape.of(Shape(self.value.shape.dtype, array.shape, strides))

    def data_ptr(self) -> int:
        """The address of the first element, on the host or a device."""
        if self.value.elsewhere:
            return int(self.value.address)  # type: ignore[attr-defined]
        return int(self.array.ctypes.data)

    def tolist(self) -> list[Any]:
        """The elements as one flat list, row-major."""
        flat: list[Any] = self.array.reshape(-1).tolist()
        return flat

    @staticmethod
    def save(arg: argument, filename: str) -> None:
        """Writes an argument to a file: an ``.mxr`` of a program that returns it."""
        program = Program()
        program.main.add_return(program.main.add_literal(np.ascontiguousarray(arg.array)))
        serialize.save(program, filename)

    @staticmethod
    def load(filename: str) -> argument:
        """The argument in a file written by ``save``."""
        (found,) = serialize.load(Path(filename), compiled=False).main.outputs
        return argument(found.op_as(Literal).value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __buffer__(self, flags: int) -> memoryview:
        """Supports ``memoryview(argument)``, from Python 3.12 on."""
        return self.array.data

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, argument) or self.get_shape() != other.get_shape():
            return False
        return bool(np.array_equal(self.array, other.array))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.get_shape()}: {{{', '.join(map(str, self.tolist()))}}}"


class borrowed(argument):
    """An argument over memory that the caller keeps alive. It may be a GPU's: programs compiled for
    one without ``offload_copy`` take it so.
    """

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        array = self.array
        said = {"shape": array.shape, "strides": array.strides, "typestr": array.dtype.str}
        return {**said, "data": (self.data_ptr(), False), "version": 3}


def argument_from_pointer(shape: shape, address: int) -> argument:
    """An argument over the memory at an address, which the caller keeps alive."""
    if not address:
        raise DataError(f"there is no {shape} at address 0")
    memory = memoryview((ctypes.c_char * shape.bytes()).from_address(address))
    return borrowed(_laid_out(np.frombuffer(memory, shape.migx().dtype.numpy), shape))


def create_argument(s: shape, values: Sequence[Any]) -> argument:
    """An argument with a shape and the given elements, row-major."""
    given = np.asarray(values, s.migx().dtype.numpy).reshape(-1)
    if given.size != s.elements():
        raise DataError(f"{s} has {s.elements()} elements, but {given.size} are given")
    array = _laid_out(np.empty(s.element_space(), given.dtype), s)
    array[...] = given.reshape(array.shape)
    return argument(array)


def fill_argument(s: shape, value: float) -> argument:
    """An argument with a shape whose elements are all equal."""
    memory = np.full(s.element_space(), value).astype(s.migx().dtype.numpy)
    return argument(_laid_out(memory, s))


def generate_argument(s: shape, seed: int = 0) -> argument:
    """An argument with the numbers that MIGraphX generates from a seed, bit for bit.

    Floats are multiples of 1/16 from -1 to below 1, integers have at most 5 bits per byte.
    """
    dtype = s.migx().dtype
    drawn = _xorshf96(seed)
    memory = np.array([next(drawn) for _ in range(s.element_space())], np.uint64)
    if dtype.kind == "bool":
        values = memory % 2
    elif dtype.is_float:
        values = np.where(memory == 0, 0.0, (memory % 32).astype(np.float64) / 16 - 1)
    else:
        span = 1 << (5 * s.type_size())
        values = (memory % span).astype(np.int64)
        values = span // 2 - values if dtype.kind == "int" else values
    return argument(_laid_out(values.astype(dtype.numpy), s))


def _xorshf96(seed: int) -> Iterator[int]:
    """Marsaglia's three-word generator, here with 64-bit words (Xorshift RNGs, 2003)."""
    mask = (1 << 64) - 1
    x, y, z = 123456789, 362436069, 521288629 ^ seed
    while True:
        x ^= x << 16 & mask
        x ^= x >> 5
        x ^= x << 1 & mask
        x, y, z = y, z, x ^ y ^ z
        yield z


def _laid_out(memory: Array, s: shape) -> Array:
    """Memory viewed as a tensor with the lens and strides of a shape."""
    return as_strided(memory, s.lens(), [n * memory.itemsize for n in s.strides()])


def _array(buffer: Any) -> Array:
    """The array of an object that has a buffer, or that numpy can convert."""
    if isinstance(buffer, (list, tuple, int, float, str, shape)):
        raise CompatError(
            f"argument() takes a buffer, such as a numpy array, not {type(buffer).__name__}: "
            "create_argument(shape, values) takes numbers"
        )
    return _told(np.asarray(buffer))


def _told(array: Array) -> Array:
    """The array, with strides that a shape can express: not negative, and whole elements."""
    whole = all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
    return array if whole else np.ascontiguousarray(array)


__all__ = [
    "argument",
    "argument_from_pointer",
    "create_argument",
    "fill_argument",
    "generate_argument",
]

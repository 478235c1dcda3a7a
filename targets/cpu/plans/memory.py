"""Memory: aligned arrays, and the layout of values in them."""

from __future__ import annotations

import math
import os
from ctypes import addressof, c_char
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migx.base.memory import ALIGNMENT, Memory
from migx.errors import EvaluationError, InputError
from migx.shape import Shape

_BYTES = np.dtype(np.uint8)
_first_byte = c_char.from_buffer


def allocated(nbytes: int) -> NDArray[np.uint8]:
    """Uninitialised bytes, aligned to 64; raises ``EvaluationError`` if there is no memory for
    them.
    """
    return block(nbytes)[0]


def block(nbytes: int, reused: Memory | None = None) -> tuple[NDArray[np.uint8], int]:
    """The array that ``allocated`` gives, and its address; of memory that is ``reused``, if given
    and the system can.
    """
    if reused is not None and os.name != "nt":
        try:
            made = reused.block(nbytes)
        except MemoryError as error:
            raise _missing(nbytes) from error
        return made, address(made)
    raw, at = empty((nbytes + ALIGNMENT,), _BYTES)
    start = -at % ALIGNMENT
    return raw[start : start + nbytes], at + start


def empty(dims: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
    """An uninitialised array, and its address; raises ``EvaluationError`` if there is no memory for
    it.
    """
    try:
        made = np.empty(dims, dtype)
    except (MemoryError, ValueError) as error:
        raise _missing(math.prod(dims) * dtype.itemsize) from error
    return made, address(made)


def _missing(nbytes: int) -> EvaluationError:
    return EvaluationError(f"there is no memory for {nbytes:,} bytes")


def address(array: Any) -> int:
    """The address of an array's first element."""
    try:  # five times as fast, if the array is contiguous, not empty and writable
        return addressof(_first_byte(array))
    except (BufferError, TypeError, ValueError):
        found: int = array.__array_interface__["data"][0]
        return found


@dataclass(frozen=True)
class Layout:
    """The layout of a value of static shape in some bytes: its start and strides, in bytes."""

    shape: Shape
    start: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of_shape(cls, shape: Shape) -> Layout:
        """The layout of a shape, from offset 0."""
        size = shape.dtype.numpy.itemsize
        strides = tuple(int(s) * size for s in shape.true_strides)
        return cls(shape, 0, tuple(int(d) for d in shape.dims), strides)

    def at(self, start: int) -> Layout:
        """The layout from another offset."""
        return Layout(self.shape, start, self.dims, self.strides) if start else self

    @property
    def whole(self) -> bool:
        """Whether it is that of an array alone, from its first byte to its last."""
        return not self.start and self.shape.strides is None and not self.shape.dtype.is_packed

    def of(self, memory: NDArray[Any]) -> NDArray[Any]:
        """The value in some memory; flat bytes if it is packed."""
        if self.shape.dtype.is_packed:
            flat = memory.reshape(-1).view(np.uint8)
            return flat[self.start : self.start + int(self.shape.nbytes)]
        if 0 in self.dims:
            return np.empty(self.dims, self.shape.dtype.numpy)
        return np.ndarray(self.dims, self.shape.dtype.numpy, memory, self.start, self.strides)


def viewed(memory: NDArray[np.uint8], shape: Shape) -> NDArray[Any]:
    """The value of static shape at the start of some bytes."""
    return Layout.of_shape(shape).of(memory)


def laid_out(array: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The array if it has this layout, else a copy that does. Raises ``InputError`` if the layout
    gives elements the same memory that are not equal.
    """
    shape = layout.shape
    if shape.dtype.is_packed or all(
        d == 1 or a == b for d, a, b in zip(array.shape, array.strides, layout.strides, strict=True)
    ):
        return array
    made = layout.of(allocated(int(shape.nbytes)))
    made[...] = array
    if int(shape.element_space) < int(shape.elements) and made.tobytes() != array.tobytes():
        raise InputError(f"the value for {shape} has different elements where they share memory")
    return made

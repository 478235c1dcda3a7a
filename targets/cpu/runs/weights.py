"""Where constants lie: in place if they are aligned, and packed directly to their final memory."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from migx.argument import Argument
from migx.base.memory import ALIGNMENT
from migx.ir import Instruction
from migx.ops.builtin import Literal
from migx.ops.formats import pack, read
from migx.shape import Shape
from migx.targets.cpu.plans.memory import address, allocated


class Literals:
    """The memory of a program's literals, each once."""

    def __init__(self) -> None:
        self._arrays: dict[int, tuple[Any, NDArray[Any]]] = {}

    def address(self, at: Instruction) -> int:
        """The address of a literal."""
        value = at.op_as(Literal).value
        if id(value) not in self._arrays:
            made = in_place_or_aligned(value.array)
            self._arrays.setdefault(id(value), (value, made))  # of several threads the first wins
            if made is not value.array:
                value.give_back()
        return address(self._arrays[id(value)][1])

    @property
    def nbytes(self) -> int:
        """The bytes of all of them."""
        return sum(array.nbytes for _, array in self._arrays.values())


def packed(value: Argument, form: str) -> Argument:
    """A value in a weight format, aligned."""
    dtype = value.shape.dtype
    if dtype.is_packed:
        made = pack(value, form)
        return Argument(made.shape, in_place_or_aligned(made.array))
    array = in_place_or_aligned(read(form, value.shape.rank).ordered(value.array))
    return Argument(Shape(dtype, array.shape), array)


def in_place_or_aligned(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself where it is aligned and in standard layout, else a copy that is."""
    if address(array) % ALIGNMENT == 0 and array.flags.c_contiguous:
        return array
    made = allocated(array.nbytes).view(array.dtype).reshape(array.shape)
    made[...] = array
    return made

"""Inputs for a program, drawn from a seed.

inputs, sizes = drawn_inputs(program)
results = program.eval(inputs)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from migx import dim
from migx.argument import Argument
from migx.base.files import member
from migx.base.memory import installed
from migx.binding import check_type, sizes_of
from migx.debug.input_sizes import Sizes, chosen
from migx.debug.input_values import ANY, held
from migx.errors import InputError, there_are
from migx.op import Array
from migx.ops.sequences import VARIES
from migx.program import Program
from migx.shape import OPTIONAL, SEQUENCE, TUPLE, Shape
from migx.specialise import check_sizes

NONE: Mapping[str, Any] = MappingProxyType({})
SOME = 2
"""How many elements a drawn sequence has, and an element along a dim that varies."""


def drawn_inputs(
    program: Program,
    seed: int = 0,
    *,
    sizes: Mapping[str, int] = NONE,
    given: Mapping[str, Any] = NONE,
    fill: Mapping[str, float] = NONE,
    apart: bool = False,
) -> tuple[dict[str, Any], Sizes]:
    """An array for each input of a program, and the sizes of its symbols.

    Floats are normal; integers are 0 or 1, or what the tables that they index have, or what they
    are compared with. Symbols have the ``sizes`` given or those of the arrays ``given``, which are
    among the inputs returned, and else small ones, so that no shape rule and no index is refused;
    ``apart``, they are above 1 and all different where the program allows it, because some errors
    show only then. ``fill`` has a number for all elements of an input. ``InputError`` if an array
    does not fit, or an input cannot be drawn.
    """
    parameters = {name: p.shape for name, p in program.main.parameters.items()}
    if unknown := [name for name in (*given, *fill) if name not in parameters]:
        raise InputError(f"no input named {unknown[0]!r}; {there_are(unknown[0], parameters)}")
    lacking = {name: shape for name, shape in parameters.items() if name not in given}
    known, integers = _told(given, parameters, check_sizes(program, sizes)), held(program)

    def draw(sizes: Mapping[str, int]) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        made = {n: drawn(n, s, sizes, rng, integers.get(n, ANY)) for n, s in lacking.items()}
        return {**given, **made, **{n: np.full_like(made[n], fill[n]) for n in fill}}

    found = chosen(program, known, draw, apart=apart)
    return draw(found), found


def _told(given: Mapping[str, Any], parameters: Mapping[str, Shape], known: Sizes) -> Sizes:
    """The known sizes of symbols, and those that follow from arrays."""
    arrays = {name: Argument.of(v) for name, v in given.items() if type(v) is not tuple}
    pairs = [(name, parameters[name], v.shape) for name, v in arrays.items()]
    for name, declared, actual in pairs:
        check_type(name, actual, declared)
    return sizes_of(pairs, known)


def drawn(
    name: str,
    shape: Shape,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    integers: Sequence[int] = ANY,
) -> Any:
    """A random input: floats normal, integers and bools from ``integers``; tuples by member; of an
    optional its content, and of a sequence ``SOME`` elements.
    """
    if shape.dtype is TUPLE:
        parts = enumerate(shape.parts)
        return tuple(drawn(member(name, i), part, sizes, rng) for i, part in parts)
    if shape.dtype is OPTIONAL:
        return drawn(name, shape.parts[0], sizes, rng, integers)
    if shape.dtype is SEQUENCE:
        return [drawn(member(name, i), shape.parts[0], sizes, rng) for i in range(SOME)]
    if not shape.dtype.is_tensor or shape.dtype.is_packed:
        raise InputError(
            f"no values can be drawn for input {name!r}, {shape}: give it in Python, to eval"
        )
    dims = [SOME if extent == VARIES else dim.evaluate(extent, sizes) for extent in shape.dims]
    if (size := math.prod(dims) * shape.dtype.numpy.itemsize) > installed():
        raise InputError(
            f"input {name!r}, {shape.with_dims(dims).text}, takes {size / 1e9:,.0f} GB, and this "
            f"machine has {installed() / 1e9:,.0f}: choose smaller sizes, as by --dim-param NAME=N"
        )
    if shape.dtype.kind == "string":
        return np.full(dims, "", object)
    if shape.dtype.is_float:
        values: Array = rng.standard_normal(dims, np.float32)
    else:
        values = np.asarray(integers)[rng.integers(0, len(integers), dims)]
    return np.asarray(values).astype(shape.dtype.numpy)

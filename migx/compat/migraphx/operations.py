"""MIGraphX's operations and macros: a name and attributes, checked when they are made, and lowered
to migx's when they are given inputs.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from migx import op as operations
from migx.compat.migraphx import lowering, macros
from migx.compat.migraphx.forms import RENAMED
from migx.compat.migraphx.shapes import dynamic_dimension, type_of
from migx.errors import UnknownName, there_are
from migx.op import Operation
from migx.shape import DType


class pooling_mode(enum.IntEnum):
    """What a ``pooling`` computes for each window."""

    average = 0
    max = 1
    lpnorm = 2


class rnn_direction(enum.IntEnum):
    """The direction in which a recurrent layer processes its steps."""

    forward = 0
    reverse = 1
    bidirectional = 2


class _Named:
    """A name with what is given for it: attributes or options among those that are known."""

    def __init__(self, name: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        for key in given:
            if key not in known:
                raise UnknownName(f"{name} has no attribute {key!r}; {there_are(key, known)}")
        self._name = name
        self._given = {key: _value(name, key, v) for key, v in given.items()}

    def name(self) -> str:
        return self._name

    def given(self) -> Mapping[str, Any]:
        """What is given, as plain Python values, with lists as tuples."""
        return self._given

    def _told(self) -> Mapping[str, Any]:
        """What is shown, as MIGraphX's users expect it."""
        return {key: _plain(value) for key, value in self._given.items()}

    def __repr__(self) -> str:
        held = ",".join(f"{key}={value}" for key, value in self._told().items())
        return f"{self._name}[{held}]" if held else self._name


class op(_Named):
    """An operation: ``op("convolution", padding=[1, 1], group=2)``.

    ``CompatError`` if migx has no such operation, ``UnknownName`` if it has no such attribute; each
    lists what exists.
    """

    pooling_mode = pooling_mode
    rnn_direction = rnn_direction

    def __init__(self, name: str, **attributes: Any) -> None:
        super().__init__(name, lowering.attributes(name), attributes)

    @classmethod
    def of(cls, given: Operation) -> op:
        """The operation of an instruction, as migx has it."""
        made, told = cls.__new__(cls), {v: k for k, v in RENAMED.get(given.name, {}).items()}
        held = operations.attributes(given)
        made._name, made._given = given.name, {told.get(k, k): v for k, v in held.items()}
        return made

    def values(self) -> dict[str, Any]:
        """The attributes with values, given or by default."""
        defaults = lowering.attributes(self._name) if self._name in lowering.names() else {}
        held = {k: v for k, v in defaults.items() if v is not lowering.REQUIRED} | self._given
        return {key: _plain(value) for key, value in held.items()}

    _told = values


class macro(_Named):
    """Several instructions under one name: ``macro("gemm", alpha=2.0, transB=True)``."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, macros.options(name), options)

    def options(self) -> dict[str, Any]:
        """The given options."""
        return dict(self._told())


def _value(name: str, key: str, value: Any) -> Any:
    """An attribute as a plain value; floats are rounded to f32, as MIGraphX stores them."""
    if isinstance(value, (bool, str, dynamic_dimension)):
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(_value(name, key, v) for v in value)
    if isinstance(value, float):
        return float(np.float32(value))
    try:
        return operator.index(value)
    except TypeError:
        kinds = "a bool, int, float, str, dynamic_dimension or a list of these"
        what = type(value).__name__
        raise TypeError(f"{name}: {key} is {kinds}, not {what}") from None


def _plain(value: Any) -> Any:
    """A value as Python users of MIGraphX expect it: lists, and element types as integers."""
    if isinstance(value, DType):
        return int(type_of(value))
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


__all__ = ["macro", "op"]

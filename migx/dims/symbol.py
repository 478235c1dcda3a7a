"""Symbols: named sizes, of which dims are made."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from migx.dims.intervals import Bounds
from migx.errors import DimError

# Words with a meaning in the text form; a symbol with such a name is written in backticks.
_RESERVED = re.compile(
    r"min|max|broadcast|true|false|nan|inf|bytes|sha256|"
    r"bool|str|tuple|sequence|optional|bf16|[iuf](2|4|8\w*|16|32|64)"
)


def listed(sizes: Mapping[str, int]) -> str:
    """Sizes by name, as in messages and on the command line: ``batch=4, length=16``."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


@dataclass(frozen=True)
class Symbol:
    """A named size without a value until it is bound.

    ``low`` and ``high`` are inclusive; ``high`` is None if unknown. ``optimals`` are sizes worth a
    specialised variant.
    """

    name: str
    low: int = 0
    high: int | None = None
    optimals: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given: object = self.name
        if not isinstance(given, str) or not given:
            raise DimError(f"a dim's name is text, such as 'batch', not {given!r}")

    @property
    def bounds(self) -> Bounds:
        return self.low, math.inf if self.high is None else self.high

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        if is_identifier(self.name) and not _RESERVED.fullmatch(self.name):
            return self.name
        escaped = json.dumps(self.name, ensure_ascii=False)[1:-1].replace("`", r"\u0060")
        return f"`{escaped}`"


def is_identifier(name: str) -> bool:
    """Whether a name is written bare in the text form; others are in quotes or backticks."""
    return re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name, re.ASCII) is not None

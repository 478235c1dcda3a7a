"""What the annotations of dataclass fields say: of the attributes of operations and the options of
passes, wherever these are read from text.
"""

from __future__ import annotations

from typing import Any

from migx.argument import Argument
from migx.dim import Dim
from migx.shape import DType, Shape

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "bool": (bool,),
    "str": (str,),
    "Extent": (int, Dim),
    "Shape": (Shape,),
    "DType": (DType,),
    "Argument": (Argument,),
}


def fits(kind: str, value: Any) -> bool:
    """Whether a value is of the kind a field declares, as ``tuple[int, ...]``; kinds that are not
    known here take any. A bool is no number.
    """
    if kind.startswith("tuple"):
        inner = kind.removeprefix("tuple[").removesuffix(", ...]")
        return isinstance(value, tuple) and all(fits(inner, item) for item in value)
    if kind not in _KINDS:
        return True
    return isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))

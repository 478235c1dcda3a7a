"""MIGraphX's macros: each is an ONNX operator, and is read as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from migx import ops
from migx.compat.migraphx.imported import read
from migx.compat.migraphx.lowering import REQUIRED
from migx.errors import CompatError, ShapeError, UnknownName, there_are
from migx.ir import Instruction, Module
from migx.onnx.alike import names

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Operator:
    """An ONNX operator: its name, the attribute for each option, fixed attributes, and the options
    that are inputs.
    """

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    as_inputs: tuple[str, ...] = ()
    domain: str = ""


WINDOWS = {name: name for name in ("strides", "dilations", "group", "auto_pad")}
WINDOWS |= {"paddings": "pads"}
LINEAR = {"axis": "axis", "block_size": "block_size"}
MACROS = {
    "batchnorm": Operator("BatchNormalization", {"epsilon": "epsilon"}),
    "celu": Operator("Celu", {"alpha": "alpha"}),
    "clip": Operator("Clip"),
    "convolution": Operator("Conv", WINDOWS),
    "dequantizelinear": Operator("DequantizeLinear", LINEAR),
    "dot": Operator("MatMul"),
    "einsum": Operator("Einsum", {"equation": "equation"}),
    "gelu_erf": Operator("Gelu"),
    "gelu_quick": Operator("QuickGelu", {"alpha": "alpha"}, domain=MICROSOFT),
    "gelu_tanh": Operator("Gelu", {"fast": "fast"}, {"approximate": "tanh"}),
    "gemm": Operator("Gemm", {name: name for name in ("alpha", "beta", "transA", "transB")}),
    "mean_variance_normalization": Operator("MeanVarianceNormalization", {"axes": "axes"}),
    "quant_convolution": Operator("ConvInteger", WINDOWS),
    "quant_dot": Operator("MatMulInteger"),
    "quantizelinear": Operator("QuantizeLinear", LINEAR),
    "rotary_embedding": Operator(
        "RotaryEmbedding", {"interleaved": "interleaved"}, domain=MICROSOFT
    ),
    "tile": Operator("Tile", as_inputs=("repeats",)),
}
POINTWISE = names("Add", "And", "BitwiseAnd", "Div", "Mul", "Or", "PRelu", "Pow", "Sub", "Xor")
"""Binary macros with broadcast operands; the second from ``broadcasted_axis`` on, if given."""
PLACED = "broadcasted_axis"
FAST = Operator("FastGelu", domain=MICROSOFT)
"""The operator of ``gelu_tanh`` with the option ``fast``: its constants have six digits."""
MACROS |= {name: Operator(operator) for name, operator in POINTWISE.items()}
ABSENT = {
    "bias_uint8": "add 128 and convert",
    "gelu_split": "use gelu_erf",
    "sqdiff": "use op('sqdiff') on inputs of equal dims",
}
"""MIGraphX's macros that are not supported, and what to use instead."""


def options(name: str) -> Mapping[str, Any]:
    """The options of a macro. ``CompatError`` if migx does not have it, ``UnknownName`` if
    MIGraphX does not either.
    """
    if name in ABSENT:
        raise CompatError(f"there is no macro {name}: {ABSENT[name]}")
    if name not in MACROS:
        raise UnknownName(f"no macro is named {name!r}; {there_are(name, sorted(MACROS))}")
    placed = (PLACED,) if name in POINTWISE else ()
    return dict.fromkeys((*MACROS[name].options, *MACROS[name].as_inputs, *placed), REQUIRED)


def lowered(
    module: Module, name: str, given: Mapping[str, Any], inputs: Sequence[Instruction]
) -> Instruction:
    """The result of a macro with the given options."""
    kind, values = MACROS[name], list(inputs)
    given = dict(given)
    if given.pop("fast", False):
        kind = FAST
    if missing := [key for key in kind.as_inputs if key not in given]:
        raise ShapeError(f"macro {name} requires {', '.join(missing)}")
    if PLACED in given:
        x, y = values
        after = x.shape.rank - int(given[PLACED]) - y.shape.rank
        trailing = tuple(range(y.shape.rank, y.shape.rank + after))
        values[1] = module.add_instruction(ops.Unsqueeze(trailing), y)
    values += [module.add_literal(np.array(given[k], np.int64)) for k in kind.as_inputs]
    told = {kind.options[key]: v for key, v in given.items() if key in kind.options}
    if "pads" in told and len(told["pads"]) == inputs[0].shape.rank - 2:
        told["pads"] *= 2  # one number for an axis is for both ends
    told = {key: int(v) if isinstance(v, bool) else v for key, v in told.items()}
    return read(module, kind.name, values, told | dict(kind.always), kind.domain)

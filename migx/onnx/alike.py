"""The names of ONNX operators that are operations of migx, for those who read and write them."""

from __future__ import annotations

from collections.abc import Callable

from migx import ops
from migx.op import Operation, snake_case

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Cos",
    "Cosh", "Erf", "Exp", "Floor", "Identity", "IsNaN", "Log", "Neg", "Not", "Reciprocal",
    "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Tan", "Tanh",
)  # fmt: skip
BINARY = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Or", "PRelu", "Sub", "Xor",
)  # fmt: skip
ELEMENTWISE = (*UNARY, *BINARY, "Max", "Min", "Pow", "Where")
REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")

RENAMED = {
    "And": "LogicalAnd",
    "IsNaN": "Isnan",
    "Or": "LogicalOr",
    "PRelu": "Prelu",
    "Reciprocal": "Recip",
    "Round": "Nearbyint",
    "Xor": "LogicalXor",
}
"""The classes that have another name than the operator."""


def class_of(operator: str) -> Callable[..., Operation]:
    """The class of the operation with the same meaning as an operator."""
    found: Callable[..., Operation] = getattr(ops, RENAMED.get(operator, operator))
    return found


def names(*operators: str) -> dict[str, str]:
    """Operators by the names of their operations."""
    return {snake_case(RENAMED.get(each, each)): each for each in operators}

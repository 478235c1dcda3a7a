"""What passes may know of weights: what is constant, and when a value may be read.

*Constant* means a literal, a deferred weight, a slot, or what is computed from these alone. The
shape and type of a constant may be used freely; its value is a separate request, granted for fixed
literals, and for replaceable ones only with an assumption that is recorded on the program and
checked when new weights arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from migx import op as operations
from migx.argument import Argument
from migx.errors import AssumptionError
from migx.ir import Instruction, Program
from migx.ops.builtin import Literal

SOURCES = frozenset({"@literal", "@slot", "onnx_external_weights"})


@dataclass(frozen=True)
class Assumption:
    """That a weight has the value a pass looked at: the weight's label, the value, and the pass
    that relied on it.
    """

    label: str
    value: Argument
    relied_on_by: str


def is_constant(at: Instruction, known: dict[Instruction, bool] | None = None) -> bool:
    """Whether an instruction depends on literals and weights alone.

    ``known`` keeps answers from call to call, so that asking of every instruction of a module costs
    one visit of each.
    """
    known = {} if known is None else known
    stack = [at]
    while stack:
        top = stack[-1]
        if top in known:
            stack.pop()
            continue
        if top.op.name in SOURCES or not top.inputs or not _computes(top):
            known[top] = top.op.name in SOURCES
            continue
        unknown = [v for v in top.inputs if v not in known]
        if unknown:
            stack.extend(unknown)
        else:
            known[top] = all(known[v] for v in top.inputs)
    return known[at]


def _computes(at: Instruction) -> bool:
    """Whether the result is a function of the inputs and of nothing else."""
    declared = operations.traits(at.op)
    return declared.pure and declared.foldable and not at.modules


def is_readable(at: Instruction, relied_on_by: str = "") -> bool:
    """Whether ``value_of`` would grant a value; nothing is recorded."""
    if type(at.op) is not Literal or not at.op.value.available:
        return False
    return not at.op.replaceable or (bool(relied_on_by) and at.module is not None)


def value_of(at: Instruction, *, relied_on_by: str = "") -> Argument | None:
    """The value of a literal, for a rewrite that looks at values; None where it may not be known.

    Fixed literals are granted. A replaceable one is granted only to a caller that names itself, and
    the assumption is recorded on the program. Deferred weights and slots have no value yet.
    """
    if type(at.op) is not Literal or not is_readable(at, relied_on_by):
        return None
    if at.op.replaceable and at.module is not None:
        assumed = Assumption(at.op.label, at.op.value, relied_on_by)
        at.module.program.assumptions.setdefault(assumed, None)
    return at.op.value


def check_assumptions(program: Program, new: dict[str, Argument]) -> None:
    """Raises ``AssumptionError`` naming the weight and the pass where a new value breaks what a
    pass relied on.
    """
    for assumed in program.assumptions:
        value: Any = new.get(assumed.label)
        if value is not None and value != assumed.value:
            raise AssumptionError(
                f"{assumed.label!r} cannot change: pass {assumed.relied_on_by} relied on its value"
            )

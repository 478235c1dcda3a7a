"""What changes for the users of an instruction that has changed: strides, and what is constant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from migx.errors import ShapeError
from migx.ops.builtin import SOURCES

if TYPE_CHECKING:
    from migx.ir import Instruction


def infer_again(changed: Iterable[Instruction]) -> None:
    """Infers strides again, from some instructions on. ``ShapeError`` if type or dims of one would
    change.
    """
    _spread(changed, _infers_other_strides)


def tell_constants(changed: Iterable[Instruction]) -> None:
    """Decides again which values are constant, from some instructions on."""
    _spread(changed, _is_otherwise_constant)


def is_constant(at: Instruction) -> bool:
    """Whether an instruction is constant, given which of its inputs are."""
    if isinstance(at.op, SOURCES) or not at.inputs:
        return isinstance(at.op, SOURCES)
    return all(value.constant for value in at.inputs) and at.computes()


def _spread(changed: Iterable[Instruction], updated: Callable[[Instruction], bool]) -> None:
    """Updates some instructions, and the users of each that this changes."""
    work = list(changed)
    while work:
        at = work.pop()
        if updated(at):
            work.extend(at.users)


def _infers_other_strides(at: Instruction) -> bool:
    shape = at.op.compute_shape([value.shape for value in at.inputs], at.modules)
    if not shape.same_type(at.shape):
        raise ShapeError(f"{at!r} would become {shape}")
    if shape == at.shape:
        return False
    at.shape = shape
    return True


def _is_otherwise_constant(at: Instruction) -> bool:
    before, at.constant = at.constant, is_constant(at)
    return at.constant != before

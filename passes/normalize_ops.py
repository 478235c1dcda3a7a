"""Gives equivalent operations equal attributes."""

from __future__ import annotations

import dataclasses
from operator import itemgetter
from typing import Any

from migx import ops
from migx.ir import Instruction
from migx.manager import Pass
from migx.match import on, var
from migx.op import Operation
from migx.ops.reduce import REDUCTIONS
from migx.rewrite import Cursor, rule

ALONG_AXES = (ops.Squeeze, ops.Unsqueeze, ops.Reverse, *REDUCTIONS)
"""Operations whose axes are a set."""


@rule(on(ALONG_AXES, var("x"), name="root"))
def sorted_axes(at: Cursor, x: Instruction, root: Instruction) -> Instruction | None:
    """A set of axes is sorted; an operation along no axis is its input."""
    op: Any = root.op
    if not op.axes:
        return x
    return _unless_equal(at, root, x, dataclasses.replace(op, axes=tuple(sorted(op.axes))))


@rule(on(ops.Slice, var("x"), name="root"))
def sorted_slice(at: Cursor, x: Instruction, root: Instruction) -> Instruction | None:
    """The axes of a slice are sorted, and those it takes whole are dropped."""
    op = root.op_as(ops.Slice)
    spans = sorted(zip(op.axes, op.starts, op.ends, strict=True), key=itemgetter(0))
    kept = [span for span in spans if span[1] != 0 or span[2] != x.shape.dims[span[0]]]
    return _unless_equal(at, root, x, ops.Slice(*zip(*kept, strict=True))) if kept else x


@rule(on(ops.Step, var("x"), name="root"))
def sorted_step(at: Cursor, x: Instruction, root: Instruction) -> Instruction | None:
    """The axes of a step are sorted, and those of step 1 are dropped."""
    op = root.op_as(ops.Step)
    kept = [(axis, by) for axis, by in sorted(zip(op.axes, op.steps, strict=True)) if by != 1]
    return _unless_equal(at, root, x, ops.Step(*zip(*kept, strict=True))) if kept else x


@rule(on(ops.Reshape, var("x"), allowzero=True, name="root"))
def plain_reshape(at: Cursor, x: Instruction, root: Instruction) -> Instruction:
    """``allowzero`` is cleared, because dims that are attributes do not depend on it."""
    return at(ops.Reshape(root.shape.dims), x)


class NormalizeOps(Pass):
    """Brings attributes into one form, so that equivalent operations are equal: axes sorted, slices
    of whole axes dropped (MIGraphX pass of this name, whose negative axes no operation here can
    have).
    """

    rules = sorted_axes + sorted_slice + sorted_step + plain_reshape


def _unless_equal(
    at: Cursor, root: Instruction, x: Instruction, op: Operation
) -> Instruction | None:
    return None if op == root.op else at(op, x)

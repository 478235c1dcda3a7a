"""Merges instructions that compute the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

from migx import op as operations
from migx.dead_code import is_pure
from migx.dim import Dim, Extent
from migx.errors import DimError, ShapeError
from migx.ir import Instruction, Module, merged
from migx.manager import Pass, PassManager
from migx.ops.builtin import Literal
from migx.ops.fused import Fused
from migx.passes._common import identity
from migx.planning import pieces
from migx.program import Program
from migx.sizes import known_symbols
from migx.specialise import substitute_symbols

Known: TypeAlias = dict[Hashable, Instruction]
"""The available instructions, by value-numbering key."""
Gained: TypeAlias = dict[Instruction, list[tuple[str, ...]]]
"""The origins that instructions gain from those they replace."""


class EliminateCommonSubexpression(Pass):
    """Merges pure instructions with the same operation and operands, in any order if the operation
    commutes, and literals of the same bits (MIGraphX pass of this name).

    A submodule reuses values of the modules around it that come before it. Replaceable literals are
    never merged, nor deferred weights unless they are one tensor of one file. Merging results of
    data-dependent length, such as those of ``nonzero``, merges their symbols too.
    """

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        changed = _merge_all(program)
        while same := _same_lengths(program):
            try:
                substitute_symbols(program, same)
            except (DimError, ShapeError):  # every run will be refused too, with a fuller message
                return changed
            _merge_all(program)
            changed = True
        return changed


def _merge_all(program: Program) -> bool:
    """Merges equal instructions in all modules."""
    gained: Gained = {}
    for module in program.modules.values():
        # A module that several instructions share reads nothing from around any of them.
        if module.parent is None:
            _merge(module, [], gained)
    for kept, origins in gained.items():
        kept.origins = merged(*origins)
    return bool(gained)


def _same_lengths(program: Program) -> dict[str, Extent]:
    """The symbols of lengths to replace by those of earlier instructions in the module, which are
    the same except for the symbol.
    """
    found: dict[str, Extent] = {}
    for module in program.modules.values():
        given = ((at, operations.attributes(at.op).get("count")) for at in module)
        counts = {at: count for at, count in given if isinstance(count, Dim)}
        if len(counts) < 2:
            continue
        known: dict[Hashable, Dim] = {}
        late = {at for part in pieces(module, known_symbols(module)) for at in part.late}
        for at, count in counts.items():
            if at in late and count.symbol is not None:
                open_ = operations.key(operations.substitute(at.op, {count.symbol.name: 0}))
                before = known.setdefault((open_, tuple(map(id, at.inputs))), count)
                if before != count:
                    found[count.symbol.name] = before
    return found


def _merge(module: Module, around: list[Known], gained: Gained) -> None:
    """Merges equal instructions of a module and its submodules, also with those around it."""
    known: Known = {}
    scopes = [*around, known]
    for at in module:
        for inner in at.modules:
            if inner.parent is at:
                _merge(inner, [] if isinstance(at.op, Fused) else scopes, gained)
        if module.bypass or not _may_merge(at):
            continue
        same = identity(at)
        before = next((scope[same] for scope in scopes if same in scope), None)
        if before is None:
            known[same] = at
        elif at.users:
            gained.setdefault(before, [before.origins]).append(at.origins)
            at.origins = ()  # handed over all at once: one by one is quadratic
            module.replace_instruction(at, before)


def _may_merge(at: Instruction) -> bool:
    if isinstance(at.op, Literal):
        return not at.op.replaceable
    return at.op.name != "@return" and is_pure(at)

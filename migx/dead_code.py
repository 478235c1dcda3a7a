"""Removal of what nobody reads."""

from __future__ import annotations

from collections.abc import Iterable

from migx import op as operations
from migx.ir import Instruction, Module, Program


def remove_dead_code(module: Module) -> int:
    """Removes the instructions of a module that nobody reads and that have no effect; returns how
    many.

    By worklist from the users up, so the cost is one look at each instruction. An instruction with
    submodules has an effect if anything in them has; it takes along those that nobody else has, and
    what they alone read of the modules around them. Parameters stay.
    """
    return remove_unread([at for at in reversed(module) if not at.users], module)[0]


def remove_unread(given: Iterable[Instruction], module: Module) -> tuple[int, list[Instruction]]:
    """Removes, of some instructions of a module, those that nobody reads and that have no effect,
    and what only they read; returns how many, and what they read that stays.
    """
    work, stayed, removed = list(given), dict[Instruction, None](), 0
    while work:
        at = work.pop()
        if at.module is None:
            continue
        if at.users or not is_pure(at) or not (at.module is module or _may_go(at)):
            stayed[at] = None
            continue
        freed = list(at.inputs)
        at.module.remove_instruction(at)
        removed += 1
        for inner in dict.fromkeys(at.modules):
            if not inner.parents:
                freed += _removed_with_all(inner)
        work += freed
    return removed, [at for at in stayed if at.module is not None]


def _may_go(value: Instruction) -> bool:
    """Whether what a submodule read may be removed from a module around it."""
    return value.module is not None and not value.module.bypass


def _removed_with_all(module: Module) -> list[Instruction]:
    """Removes a module and those it alone holds from the program; what they read."""
    read = []
    for inner in reversed(module.program.submodules(module)):
        if not inner.parents:
            read += [value for at in inner for value in at.inputs]
            module.program.remove_module(inner)
    return read


def remove_dead_modules(program: Program) -> int:
    """Removes the modules that are not reached from ``main`` or from ``weights``; returns how
    many.
    """
    roots = [m for m in (program.main, program.modules.get("weights")) if m is not None]
    kept = {inner for root in roots for inner in program.submodules(root)}
    dead = [m for m in program.modules.values() if m not in kept]
    removed = 0
    while dead:
        free = [m for m in dead if not m.parents]
        for module in free:
            program.remove_module(module)
            dead.remove(module)
            removed += 1
    return removed


def is_pure(at: Instruction) -> bool:
    """Whether an instruction does nothing but make its result."""
    if not operations.traits(at.op).pure:
        return False
    return all(
        is_pure(inner) for m in at.modules for inner in m if inner.name not in ("@param", "@return")
    )

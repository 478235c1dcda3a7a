"""Removal of unused instructions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from migx import op as operations
from migx.ir import Instruction, Module
from migx.program import Program
from migx.sizes import bare_symbols, known_symbols, symbols_of


def remove_dead_code(module: Module) -> int:
    """Removes the instructions of a module that have neither users nor effects; returns how many.

    A worklist runs from users to inputs, so each instruction is visited once. An instruction with
    submodules has an effect if anything in them has. It takes with it the submodules that only it
    uses, and what only they read of enclosing modules. Parameters stay.
    """
    return remove_unread([at for at in reversed(module) if not at.users], module)[0]


def remove_unread(given: Iterable[Instruction], module: Module) -> tuple[int, list[Instruction]]:
    """Removes those of some instructions of a module that have neither users nor effects, and
    whatever only they read; returns how many, and their inputs that stay.

    An instruction that alone gives a symbol its size stays as long as others have that symbol.
    """
    work, stayed, removed = list(given), dict[Instruction, None](), 0
    sizing: list[Instruction] = []
    before = 0
    while work or (sizing and removed > before):
        if not work:
            work, sizing, before = sizing, [], removed
        at = work.pop()
        if at.module is None:
            continue
        if not at.users and gives_size(at):
            sizing.append(at)
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
    return removed, [at for at in (*stayed, *sizing) if at.module is not None]


def gives_size(at: Instruction) -> bool:
    """Whether this instruction alone gives the size of a symbol that later instructions have."""
    module = at.module
    own = at.shape.bare_symbols() - bare_symbols(at.inputs)
    if module is None or not own:
        return False
    for other in module.preceding(at):  # from the nearest, as what replaces an instruction is there
        own -= other.shape.bare_symbols()
        if not own:
            return False
    own -= known_symbols(module)
    return bool(own) and any(not own.isdisjoint(_mentioned(v)) for v in module.following(at))


def _mentioned(at: Instruction) -> Iterator[str]:
    """The symbols in an instruction and in its modules."""
    yield from symbols_of(at)
    for module in at.modules:
        for inner in module:
            yield from _mentioned(inner)


def _may_go(value: Instruction) -> bool:
    """Whether a value that a submodule read may be removed from its enclosing module."""
    return value.module is not None and not value.module.bypass


def _removed_with_all(module: Module) -> list[Instruction]:
    """Removes a module and the submodules only it uses from the program; returns what they read."""
    inside = module.program.submodules(module)
    read = [value for inner in inside for at in inner for value in at.inputs]
    module.program.remove_module(module)
    return read


def remove_dead_modules(program: Program) -> int:
    """Removes the modules that cannot be reached from ``main`` or ``weights``; returns how many."""
    roots = [m for m in (program.main, program.modules.get("weights")) if m is not None]
    kept = {inner for root in roots for inner in program.submodules(root)}
    dead = [m for m in program.modules.values() if m not in kept]
    removed = 0
    while dead:
        free = [m for m in dead if not m.parents]
        for module in free:
            program.remove_module(module)
        left = [m for m in dead if program.modules.get(m.name) is m]
        removed, dead = removed + len(dead) - len(left), left
    return removed


def is_pure(at: Instruction) -> bool:
    """Whether an instruction has no effect but its result."""
    if not operations.traits(at.op).pure:
        return False
    return all(
        is_pure(inner) for m in at.modules for inner in m if inner.name not in ("@param", "@return")
    )

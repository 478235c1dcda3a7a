"""Copies, exact equality and fingerprints of whole programs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

from migx import op as operations
from migx.base.collector import paused
from migx.ir import Instruction, Module
from migx.ops.builtin import Literal
from migx.program import Program


@paused()
def copied(program: Program) -> Program:
    """A copy of a program that shares its operations and literal data."""
    made, modules = emptied(program)
    mapping: dict[Instruction, Instruction] = {}
    for module, at in in_order(program):
        copy_instruction(at, modules[module], mapping, modules)
    return made


def in_order(program: Program) -> Iterator[tuple[Module, Instruction]]:
    """Every instruction with its module, after its inputs and the contents of its modules."""
    done: set[Module] = set()

    def within(module: Module) -> Iterator[tuple[Module, Instruction]]:
        if module not in done:
            done.add(module)
            for at in module:
                for inner in at.modules:
                    yield from within(inner)
                yield module, at

    return chain.from_iterable(within(m) for m in program.modules.values() if not m.parents)


def emptied(program: Program) -> tuple[Program, dict[Module, Module]]:
    """A program of empty modules with the names of another's, and the map from old to new."""
    made = Program()
    modules = {program.main: made.main}
    for module in program.modules.values():
        if module is not program.main:
            modules[module] = made.create_module(module.name)
        modules[module].bypass = module.bypass
    return made, modules


def copy_instruction(
    instruction: Instruction,
    into: Module,
    mapping: dict[Instruction, Instruction],
    modules: dict[Module, Module],
) -> Instruction:
    """Appends a copy of an instruction to a module, with inputs and submodules replaced by the
    mappings; enters it in ``mapping``.

    The shape is copied, not inferred, so no shape rule runs.
    """
    made = into.append_known(
        instruction.op,
        tuple(mapping[v] for v in instruction.inputs),
        tuple(modules[m] for m in instruction.modules),
        instruction.shape,
        instruction.origins,
    )
    mapping[instruction] = made
    return made


def flat(program: Program) -> tuple[Any, ...]:
    """A program as flat lists for pickling: however long it is, nothing in it is nested deeply."""
    places: dict[Instruction, int] = {}
    rows = []
    for module, at in in_order(program):
        inputs, modules = [places[v] for v in at.inputs], [m.name for m in at.modules]
        rows.append((module.name, at.op, inputs, modules, at.shape, at.origins))
        places[at] = len(places)
    return [(m.name, m.bypass) for m in program.modules.values()], rows


def of_flat(given: tuple[Any, ...]) -> Program:
    """The program from which ``flat`` made the lists."""
    made, (names, rows) = Program(), given
    for name, bypass in names:
        module = made.main if name == made.main.name else made.create_module(name)
        module.bypass = bypass
    found: list[Instruction] = []
    for name, op, inputs, modules, shape, origins in rows:
        if isinstance(op, Literal):
            op.value.freeze()
        read, held = tuple(found[i] for i in inputs), tuple(made.modules[m] for m in modules)
        found.append(made.modules[name].append_known(op, read, held, shape, origins))
    return made


def equal(a: Program, b: Program) -> bool:
    """Whether two programs are the same, bit for bit; see ``Program``."""
    if list(a.modules) != list(b.modules) or any(
        len(m) != len(n) for m, n in zip(a.modules.values(), b.modules.values(), strict=True)
    ):
        return False
    places = {x: place for place, x in _places(a)}
    others = {x: place for place, x in _places(b)}
    for x, y in zip(places, others, strict=True):
        if (
            x.shape != y.shape
            or (x.op is not y.op and operations.key(x.op) != operations.key(y.op))
            or [places[v] for v in x.inputs] != [others[v] for v in y.inputs]
            or [m.name for m in x.modules] != [m.name for m in y.modules]
        ):
            return False
    return all(a.modules[name].bypass == b.modules[name].bypass for name in a.modules)


def fingerprint(program: Program) -> str:
    """SHA-256 over the facts that ``equal`` compares."""
    digest = hashlib.sha256()
    places: dict[Instruction, tuple[int, int]] = {x: place for place, x in _places(program)}
    for instruction, place in places.items():
        inputs = [places[v] for v in instruction.inputs]
        names = [m.name for m in instruction.modules]
        key = operations.key(instruction.op, digests=True)
        symbols = (*instruction.shape.symbols(), *operations.symbols(instruction.op))
        facts = (place, key, inputs, names, str(instruction.shape), symbols)
        digest.update(repr(facts).encode())
    digest.update(repr([(m.name, m.bypass) for m in program.modules.values()]).encode())
    return digest.hexdigest()


def facts_of(at: Instruction) -> tuple[Any, ...]:
    """What an instruction computes from its inputs: its operation, its shape, and the contents of
    those of its modules that passes leave alone. Stable between processes.
    """
    held = []
    for module in at.modules:
        if module.bypass:
            places = {inner: place for place, inner in enumerate(module)}
            held += [(facts_of(i), [places.get(v) for v in i.inputs]) for i in module]
    return (operations.key(at.op, digests=True), at.shape.text, *held)


def _places(program: Program) -> Iterator[tuple[tuple[int, int], Instruction]]:
    """Every instruction with its module's index and its own in the module."""
    for m, module in enumerate(program.modules.values()):
        for i, instruction in enumerate(module):
            yield (m, i), instruction

"""Moves what depends only on weights into the module ``weights``, whose results are named slots.

A slot is a value that other modules read by name, wherever they are. So a weight is computed,
packed, swapped and shared in one place, and a loop body reads it as ``main`` does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from migx import op as operations
from migx.dead_code import remove_dead_code
from migx.ir import Instruction, Module
from migx.ops.builtin import GetTupleElem, Literal, Slot
from migx.program import Program
from migx.weights import is_replaceable, is_weight, label_of, weights_module
from migx.weights.constants import Constants, tree
from migx.weights.evaluation import evaluated


def weights_of(program: Program) -> dict[str, Instruction]:
    """One instruction of each replaceable weight, by name."""
    found: dict[str, Instruction] = {}
    for at in program.instructions():
        if is_replaceable(at):
            found.setdefault(label_of(at), at)
    return found


def names_of_weights(program: Program) -> set[str]:
    """The names of all weights, fixed ones included."""
    fixed = (at.op.label for at in program.literals if isinstance(at.op, Literal))
    return {*fixed, *weights_of(program)}


def fixed_slots(program: Program) -> dict[str, Instruction]:
    """The slots without replaceable weights, by name, and the instructions that compute them."""
    slots = program.slots.items()
    return {name: at for name, at in slots if not any(is_weight(v) for v in tree(at))}


def hoist(program: Program, roots: Iterable[Instruction]) -> None:
    """Moves values to the weights module, and replaces them by slots.

    They must depend only on literals, weights and slots. What they are computed from stays until it
    is dead. Slots that are no longer read are removed.
    """
    roots = list(roots)
    if not roots and program.weights is None:
        return
    moving = _Moving(program)
    for root in roots:
        moving.move(root)
    moving.finish()


def settle(program: Program, constants: Constants, context: Any = None) -> None:
    """Replaces slots that contain no weight by literals, unless they are made of little, and drops
    slots that only dead code reads. Values are computed as for the target of a ``context``.
    """
    if program.weights is None:
        return
    slots = fixed_slots(program).items()
    fixed = {n: at for n, at in slots if not constants.made(at).is_made_of_little}
    values = evaluated(list(dict.fromkeys(fixed.values())), context=context)
    for at in list(program.instructions()):
        if type(at.op) is Slot and at.op.slot in fixed:
            at.owner.replace_operation(at, Literal(values[fixed[at.op.slot]]))
    drop_unread(program)


def drop_unread(program: Program) -> None:
    """Removes dead code, and the slots that only it has read."""
    for module in tuple(program.modules.values()):
        if not module.bypass:
            remove_dead_code(module)
    hoist(program, ())


def hoist_sources(program: Program) -> bool:
    """Hoists every weight that is still read outside the weights module, as it is, so that targets
    need to know only slots; returns whether there were any.
    """
    own = program.weights
    left = [at for at in program.instructions() if is_weight(at) and at.module is not own]
    hoist(program, left)
    return bool(left)


class _Moving:
    """Slots by name, and what has been copied to the weights module so far: each weight once, and
    what is computed the same way of the same values once, too.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.module = program, weights_module(program)
        self.slots = program.slots
        self.weights = {label_of(at): at for at in self.module if is_weight(at)}
        self.copies: dict[Instruction, Instruction] = {}
        self.computed: dict[Hashable, Instruction] = {}  # by operation and inputs

    def move(self, root: Instruction) -> None:
        """Replaces an instruction by a slot, and removes it."""
        whole = tree(root)
        value = self.copied(whole)
        name = next((n for n, v in self.slots.items() if v is value), None)
        if name is None:
            name = self.unused(_name(root, whole))
            self.slots[name] = value
        slot = Slot(name, root.shape.as_standard())
        made = root.owner.insert_instruction(root, slot, origins=root.origins)
        root.owner.replace_instruction(root, made)
        root.owner.remove_instruction(root)

    def copied(self, whole: list[Instruction]) -> Instruction:
        """The copy of the last of some instructions; all are copied to the weights module."""
        for at in whole:
            if at not in self.copies:
                self.copies[at] = self.copy(at)
        return self.copies[whole[-1]]

    def copy(self, at: Instruction) -> Instruction:
        if type(at.op) is Slot:
            return self.slots[at.op.slot]
        if is_weight(at) and (known := self.weights.get(label_of(at))) is not None:
            return known
        inputs = [self.copies[v] for v in at.inputs]
        key = (operations.key(at.op), *inputs) if inputs else at  # no literal is read for it
        if key in self.computed:
            return self.computed[key]
        made = self.computed[key] = self.module.add_instruction(at.op, *inputs, origins=at.origins)
        if is_weight(made):
            self.weights[label_of(made)] = made
        return made

    def unused(self, name: str) -> str:
        found, count = name, 1
        while found in self.slots:
            found, count = f"{name}.{count}", count + 1
        return found

    def finish(self) -> None:
        """Returns the slots that are read, and removes what none of them needs."""
        readers = [at for at in self.program.instructions() if isinstance(at.op, Slot)]
        for at in readers:
            if not at.users:
                at.owner.remove_instruction(at)
        read = {at.op_as(Slot).slot for at in readers if at.users}
        kept = {name: value for name, value in self.slots.items() if name in read}
        if (tuple(kept), tuple(kept.values())) != (self.module.output_names, self.module.outputs):
            self.module.add_return(*kept.values(), names=tuple(kept))
        remove_dead_code(self.module)
        if not len(self.module.outputs) and len(self.module) == 1:
            self.program.remove_module(self.module)


def _name(root: Instruction, whole: list[Instruction]) -> str:
    """A slot's name: that of the largest weight in it, if there is one, with the operation that
    computes it, and the module that reads it unless that is ``main``.
    """
    sources = [at for at in whole if is_weight(at) or type(at.op) is Slot]
    largest = max(sources, key=lambda at: int(at.shape.nbytes), default=None)
    computed = root.inputs[0] if type(root.op) is GetTupleElem else root
    parts = [computed.op.name] if root is not largest else []
    if largest is not None:
        parts.insert(0, largest.op.slot if type(largest.op) is Slot else label_of(largest))
    module: Module = root.owner
    name = ":".join(parts)
    return name if module is module.program.main else f"{module.name}/{name}"

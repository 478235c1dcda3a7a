"""What a well-formed program is: a list of named checks.

``verify(program)`` raises an error with all findings; ``findings(program)`` lists them. A check is
a function of a module that yields instructions and what is wrong with them; its name is the
function's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from migx import op as operations
from migx.consequences import is_constant
from migx.errors import IRError, ShapeError, VerifyError
from migx.ir import Instruction, Module
from migx.ops.builtin import AssumeEqual, Literal, OnnxExternalWeights, Param, Return, Slot
from migx.ops.fused import Composite
from migx.program import Program
from migx.sizes import bare_symbols, known_symbols
from migx.text import draw_instruction
from migx.weights import is_weight, label_of

READ_PACKED = frozenset(
    {"@return", "get_tuple_elem", "if", "loop", "scan", "group", "contiguous", "gather"}
)
"""The operations that may read packed storage besides those named ``unpack_...``: they pass it on,
whole or in slices.
"""

WITHIN_WEIGHTS = (Literal, OnnxExternalWeights, AssumeEqual, Return)

Problem = tuple[Instruction | None, str]
Check = Callable[[Module], Iterator[Problem]]


@dataclass(frozen=True)
class Finding:
    """One problem: the check that found it, the module, and the instruction."""

    check: str
    module: str
    message: str

    def __str__(self) -> str:
        return f"{self.check}: in module {self.module}: {self.message}"


def verify(program: Program) -> None:
    """Raises ``VerifyError`` with all findings, each with the name of its check."""
    if found := findings(program):
        more = f"\n... and {len(found) - 10} more" if len(found) > 10 else ""
        raise VerifyError(
            "the program is not well formed\n" + "\n".join(map(str, found[:10])) + more
        )


def findings(program: Program) -> list[Finding]:
    """All problems of a program; empty if it is well formed."""
    found = [Finding("symbols", program.main.name, message) for message in _symbol_clashes(program)]
    for at, message in weight_names(program):
        found.append(Finding("weights", at.module.name, _located(at, message)))  # type: ignore[union-attr]
    for module in program.modules.values():
        for check in CHECKS:
            for at, message in check(module):
                found.append(Finding(check.__name__, module.name, _located(at, message)))
    return found


def links(module: Module) -> Iterator[Problem]:
    """The list links the same instructions in both directions, order labels ascend, and the length
    is right.
    """
    previous: Instruction | None = None
    count = 0
    for at in module:
        count += 1
        if previous is not None and not previous._label < at._label:
            yield at, "its order label is not above the one before it"
        if at._previous is not (previous or module._ends):
            yield at, "the list does not lead back from it to the one before"
        if at.module is not module:
            yield at, "it does not know that it is in this module"
        previous = at
    if module._ends._previous is not (previous or module._ends):
        yield previous, "the list does not lead back to it from its end"
    if count != len(module):
        yield None, f"the module says it has {len(module)} instructions, and {count} are linked"


def inputs_before_users(module: Module) -> Iterator[Problem]:
    """Every input comes before its user, in the same module or in one around it."""
    for at in module:
        label = at._label
        for value in at.inputs:
            if value.module is module:
                if value._label >= label:
                    yield at, f"it reads {value!r}, which does not come before it"
            elif value.module is None:
                yield at, f"it reads {value!r}, which has been removed"
            elif not module.parents or not value.before(at):
                yield (
                    at,
                    f"it reads {value!r} of module {value.module.name}, which does not enclose it",
                )


def users(module: Module) -> Iterator[Problem]:
    """Users, counted with multiplicity, agree with the inputs."""
    counted = cache(lambda user: Counter(user.inputs))

    def uses(user: Instruction, value: Instruction) -> int:
        few = len(user.inputs) < 8  # looked through faster than counted
        return user.inputs.count(value) if few else counted(user)[value]

    for at in module:
        for value in at.inputs:
            if value._users.get(at) != uses(at, value):
                yield at, f"{value!r} counts its uses here wrongly"
        for user, count in at._users.items():
            if user.module is None or uses(user, at) != count:
                yield at, f"{user!r} is recorded as a user, but does not read it"


def shapes(module: Module) -> Iterator[Problem]:
    """Every shape is the one its operation infers."""
    for at in module:
        try:
            shape = at.op.compute_shape([v.shape for v in at.inputs], at.modules)
        except ShapeError as error:
            yield at, str(error)
            continue
        if shape is not at.shape and shape != at.shape:
            yield at, f"its shape is {at.shape}, its operation infers {shape}"


def constants(module: Module) -> Iterator[Problem]:
    """Every instruction is marked constant exactly if it depends on literals and weights alone."""
    for at in module:
        if at.constant != is_constant(at):
            yield at, f"it says that it is {'' if at.constant else 'not '}constant"


def parameters(module: Module) -> Iterator[Problem]:
    """Parameters come first, with the names and in the order recorded by the module."""
    front, there = True, list[Instruction]()
    for at in module:
        if type(at.op) is not Param:
            front = False
            continue
        there.append(at)
        if not front:
            yield at, "a parameter comes after other instructions"
        if module.parameters.get(at.op.parameter) is not at:
            yield at, f"the module does not record its parameter {at.op.parameter!r}"
    known = list(module.parameters.values())
    if any(at.module is not module for at in known):
        yield None, "a parameter the module records is not in it"
    elif known != there and set(known) == set(there):
        yield None, "its parameters are in another order than the module records"


def returns(module: Module) -> Iterator[Problem]:
    """A module ends with its one return."""
    if module.returned is None:
        yield module.last, "the module does not end with a return"
    for at in module:
        if type(at.op) is Return and at is not module.last:
            yield at, "a return is not the last instruction"


def submodules(module: Module) -> Iterator[Problem]:
    """Submodules belong to the program, know their parents, and capture only if their operation
    allows it.
    """
    for at in module:
        for inner in at.modules:
            if module.program.modules.get(inner.name) is not inner:
                yield at, f"its module {inner.name} is not one of the program's"
            if inner.parents.get(at) != at.modules.count(inner):
                yield at, f"module {inner.name} does not know it as its parent"
            if captured := next(captures(inner), None):
                if isinstance(at.op, Composite):
                    yield (
                        at,
                        f"{at.op.name} cannot capture, but module {inner.name} reads {captured!r}",
                    )
                if len(inner.parents) > 1:
                    yield (
                        at,
                        f"module {inner.name} captures {captured!r} and has several parents",
                    )


def packed_storage(module: Module) -> Iterator[Problem]:
    """Types under eight bits are storage: they are read only by unpacking, by operations that pass
    values on, and by a target's own operations, whose names have its prefix (``gpu::code_object``).
    """
    for at in module:
        name = at.op.name
        allowed = name in READ_PACKED or name.startswith("unpack_") or "::" in name
        for value in at.inputs:
            if value.shape.dtype.is_packed and not allowed:
                yield at, f"it reads packed {value.shape}; only an unpack operation can"


def symbols(module: Module) -> Iterator[Problem]:
    """Every symbol gets a size: it is by itself a dim of a parameter, or of the result of an
    earlier instruction.
    """
    bound = known_symbols(module)
    for at in module:
        if at.shape.static and not any(True for _ in operations.symbols(at.op)):
            continue
        bound |= bare_symbols([at])
        for symbol in (*at.shape.symbols(), *operations.symbols(at.op)):
            if symbol.name not in bound:
                yield at, f"no parameter or earlier instruction gives dim {symbol} a size"


def weights(module: Module) -> Iterator[Problem]:
    """Every slot is a result of the weights module, with the same type; that module has no
    parameters, and what it computes depends only on literals and weights.
    """
    made, slots = module.program.weights, module.program.slots
    for at in module:
        if type(at.op) is Slot:
            value = slots.get(at.op.slot)
            if value is None:
                known = ", ".join(slots) or "none"
                yield at, f"there is no slot {at.op.slot!r}; the slots are {known}"
            elif not at.shape.same_type(value.shape):
                yield at, f"it is {at.shape}, the slot is {value.shape}"
        elif module is made and type(at.op) not in WITHIN_WEIGHTS and not at.computes():
            yield at, f"{at.op.name} is not computed from literals and weights alone"


def weight_names(program: Program) -> Iterator[Problem]:
    """Weights with the same name have the same shape: they are one weight."""
    seen: dict[str, Instruction] = {}
    for at in program.instructions():
        if is_weight(at):
            other = seen.setdefault(label_of(at), at)
            if other.shape != at.shape:
                yield at, f"two weights are named {label_of(at)!r}, the other is {other.shape}"


CHECKS: tuple[Check, ...] = (
    links,
    inputs_before_users,
    users,
    shapes,
    constants,
    parameters,
    returns,
    submodules,
    packed_storage,
    symbols,
    weights,
)


def captures_of(at: Instruction) -> Iterator[Instruction]:
    """The values of enclosing modules that an instruction's modules read."""
    return (value for module in at.modules for value in captures(module))


def captures(module: Module) -> Iterator[Instruction]:
    """The values of enclosing modules that a module or its submodules read."""
    inside = set(module.program.submodules(module))
    for inner in inside:
        for at in inner:
            for value in at.inputs:
                if value.module not in inside and value.module is not None:
                    yield value


def _symbol_clashes(program: Program) -> Iterator[str]:
    try:
        program.symbols()
    except IRError as error:
        yield str(error)


def _located(at: Instruction | None, message: str) -> str:
    return message if at is None else draw_instruction(message, at)


__all__ = ["CHECKS", "Finding", "captures", "findings", "verify"]

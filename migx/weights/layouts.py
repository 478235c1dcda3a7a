"""Packs constants into the formats that a target reads best.

The target names a format for an input; the constant is packed once for each format, now or in the
weights module, and the input reads it through ``unpack_weight``, which kernels that read the format
omit. Or its passes added an operation of its own with the trait ``packs``: what that makes of
constants is computed here as well.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from migx import op as operations
from migx.argument import Argument
from migx.builders import Builder
from migx.dead_code import remove_dead_code
from migx.errors import ShapeError, TargetError
from migx.ir import Instruction
from migx.op import Operation
from migx.ops.builtin import GetTupleElem, Literal, Slot
from migx.ops.formats import PackWeight, UnpackWeight, of_blocks
from migx.planning import is_block, viewed
from migx.program import Program
from migx.target import Context
from migx.text import draw_instruction
from migx.weights import is_weight
from migx.weights.constants import Constants, tree
from migx.weights.evaluation import evaluated
from migx.weights.hoisting import hoist


def pack_weights(program: Program, context: Context) -> bool:
    """Packs the constants that a target wants packed, or has operations to pack; returns whether
    there were any.

    If an input reads a constant through views, the constant behind them is packed. If the target
    packs blocks, an input may also read one block of a constant, picked by an index: then each
    block is packed in the format for it. Constants packed for another machine are packed again.
    Storage of a few bits is left as it is.
    """
    constants = Constants(program)
    packed: dict[tuple[Instruction, str], Instruction] = {}
    modules = [m for m in program.modules.values() if not m.bypass]
    for at in [at for module in modules for at in module]:
        for index in range(len(at.inputs)):
            if (found := _wanted(at, index, context, constants)) is None:
                continue
            if (found.whole, found.form) not in packed:
                _expect_fit(context, at, index, found)
                packed[found.whole, found.form] = _packed(found.whole, found.form)
            read = next(iter(packed[found.whole, found.form].users))
            for view in reversed(found.views):
                inputs = (read, *view.inputs[1:])
                read = at.owner.insert_instruction(at, view.op, *inputs, origins=view.origins)
            at.owner.replace_input(at, index, read)
    own = [at for module in modules for at in module if _packs(at)]
    made = [*packed.values(), *(root for at in own for root in _tensors(at))]
    _settle(program, list(dict.fromkeys(made)), context)
    for module in modules if made else ():
        remove_dead_code(module)
    return bool(made)


def _packs(at: Instruction) -> bool:
    """Whether an instruction puts constants into the form a kernel reads."""
    return operations.traits(at.op).packs and at.constant and at.shape.static


def _tensors(at: Instruction) -> list[Instruction]:
    """An instruction, or what reads one of its results if there are several."""
    if at.shape.dtype.is_tensor:
        return [at]
    return [user for user in at.users if isinstance(user.op, GetTupleElem)]


@dataclass(frozen=True)
class _Wanted:
    """A constant to be packed, the format, and the views through which it is read, outermost
    first.
    """

    whole: Instruction
    form: str
    views: list[Instruction]


def _wanted(at: Instruction, index: int, context: Context, constants: Constants) -> _Wanted | None:
    """What the target wants packed for an input; None if it is no constant, or stays as it is."""
    value, target = at.inputs[index], context.target
    views = _views(value, target.packs_blocks)
    whole = views[-1].inputs[0] if views else value
    again = isinstance(whole.op, UnpackWeight)
    if not (whole.shape.static and (whole.inputs[0] if again else whole).constant):
        return None
    form = target.preferred_weight_format(at, index)
    if form is not None and views and is_block(views[-1]):
        form = of_blocks(form, whole.shape.rank - 1)
    if form is None or getattr(whole.op, "format", None) == form:
        return None
    few_bits = not whole.shape.dtype.is_packed and constants.made(whole).unpacks
    return None if few_bits else _Wanted(whole, form, views)


def _views(value: Instruction, blocks: bool) -> list[Instruction]:
    """The views between a value and its source, outermost first; with ``blocks``, the last of them
    may pick a block.
    """
    found = []
    while (below := viewed(value)) is not None:
        found.append(value)
        value = below
    return [*found, value] if blocks and is_block(value) else found


def _expect_fit(context: Context, at: Instruction, index: int, found: _Wanted) -> None:
    """Raises ``TargetError`` if a target names a format that does not fit the constant."""
    shape = found.whole.shape
    try:
        PackWeight(found.form).compute_shape([shape])
    except (ShapeError, TypeError) as error:
        behind = ", which lies behind views" if found.views else ""
        name = context.target.name
        message = f"target {name} wants input {index} packed, {shape.text}{behind}: {error}"
        raise TargetError(draw_instruction(message, at)) from error


def _packed(value: Instruction, form: str) -> Instruction:
    """Packs a constant, right after it, and unpacks it again; returns the packed value."""
    module = value.owner
    at = Builder(module, next(module.following(value), None), value.origins)
    made = at(PackWeight(form), value)
    at(UnpackWeight(form, tuple(int(d) for d in value.shape.dims)), made)
    return made


def _literal(of: Operation, value: Argument) -> Literal:
    """A literal with a packed value; one made from a literal keeps its label and class, which may
    be a target's own.
    """
    return type(of)(value, of.label) if isinstance(of, Literal) else Literal(value)


def _settle(program: Program, packed: list[Instruction], context: Context) -> None:
    """Packs literals now, and moves the packing of weights to their module."""
    weighty = {at for at in packed if any(type(v.op) is Slot or is_weight(v) for v in tree(at))}
    alike: dict[Hashable, list[Instruction]] = {}
    for at in packed:
        if at not in weighty:
            alike.setdefault((operations.key(at.op), *at.inputs), []).append(at)
    values = evaluated([first for first, *_ in alike.values()], context=context)
    for same in alike.values():
        for at in same:
            literal = _literal(at.inputs[0].op, values[same[0]])
            made = at.owner.insert_instruction(at, literal, origins=at.origins)
            at.owner.replace_instruction(at, made)
            at.owner.remove_instruction(at)
    hoist(program, [at for at in packed if at in weighty])

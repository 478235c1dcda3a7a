"""Puts constants into the formats in which a target reads them best.

The target names a format for an input; the constant is packed once for each format, in the weights
module or now, and the input reads it through ``unpack_weight``, which a kernel that takes the
format as it is leaves out.
"""

from __future__ import annotations

from migx import op as operations
from migx.argument import Argument
from migx.builders import Builder
from migx.dead_code import remove_dead_code
from migx.errors import ShapeError, TargetError
from migx.ir import Instruction
from migx.op import Operation
from migx.ops.builtin import Literal, Slot
from migx.ops.formats import PackWeight, UnpackWeight, of_blocks
from migx.planning import is_block
from migx.program import Program
from migx.target import Context
from migx.text import draw_instruction
from migx.weights import is_constant, is_weight
from migx.weights.constants import Constants, tree
from migx.weights.evaluation import evaluated
from migx.weights.hoisting import hoist


def pack_weights(program: Program, context: Context) -> bool:
    """Packs the constants that a target wants packed; says whether there were any.

    An input may read a constant through views: it is what is behind these that is packed. Where the
    target packs blocks, it may also read one of a constant, which an index picks: then all of them
    are packed, each as the target wants the one. What has been packed for another machine is packed
    again. What unpacks storage of a few bits stays so.
    """
    constants = Constants(program)
    known: dict[Instruction, bool] = {}
    packed: dict[tuple[Instruction, str], Instruction] = {}
    modules = [m for m in program.modules.values() if not m.bypass]
    for at in [at for module in modules for at in module]:
        for index, value in enumerate(at.inputs):
            views = _views(value, context.target.packs_blocks)
            whole = views[-1].inputs[0] if views else value
            again = isinstance(whole.op, UnpackWeight)
            if not (whole.shape.static and is_constant(whole.inputs[0] if again else whole, known)):
                continue
            form = context.target.preferred_weight_format(at, index)
            if form is not None and views and is_block(views[-1]):
                form = of_blocks(form, whole.shape.rank - 1)
            if form is None or getattr(whole.op, "format", None) == form:
                continue
            if not whole.shape.dtype.is_packed and constants.made(whole).unpacks:
                continue
            if (whole, form) not in packed:
                _expect_fit(context, at, index, whole, form)
                packed[whole, form] = _packed(whole, form)
            read = next(iter(packed[whole, form].users))
            for view in reversed(views):
                inputs = (read, *view.inputs[1:])
                read = at.owner.insert_instruction(at, view.op, *inputs, origins=view.origins)
            at.owner.replace_input(at, index, read)
    _settle(program, list(packed.values()), context)
    for module in modules if packed else ():
        remove_dead_code(module)
    return bool(packed)


def _views(value: Instruction, blocks: bool) -> list[Instruction]:
    """The views through which a value shows another, the outermost first; with ``blocks``, the last
    of them may be a block of the other.
    """
    found = []
    while operations.traits(value.op).view is not None and len(value.inputs) == 1:
        found.append(value)
        value = value.inputs[0]
    return [*found, value] if blocks and is_block(value) else found


def _expect_fit(
    context: Context, at: Instruction, index: int, whole: Instruction, form: str
) -> None:
    """Raises ``TargetError`` where a target names a format that is none for the constant."""
    try:
        PackWeight(form).compute_shape([whole.shape])
    except (ShapeError, TypeError) as error:
        name = context.target.name
        behind = "" if whole is at.inputs[index] else ", which lies behind views"
        message = f"target {name} wants input {index} packed, {whole.shape.text}{behind}: {error}"
        raise TargetError(draw_instruction(message, at)) from error


def _packed(value: Instruction, form: str) -> Instruction:
    """What packs a constant, right behind it, followed by what reads it back."""
    module = value.owner
    at = Builder(module, module.following(value), value.origins)
    made = at(PackWeight(form), value)
    at(UnpackWeight(form, tuple(int(d) for d in value.shape.dims)), made)
    return made


def _literal(of: Operation, value: Argument) -> Literal:
    """A literal of a packed value; of one that was packed, with its label, and the target's own
    where that was.
    """
    return type(of)(value, of.label) if isinstance(of, Literal) else Literal(value)


def _settle(program: Program, packed: list[Instruction], context: Context) -> None:
    """Packs the literals now, and the weights in their module."""
    weighty = {at for at in packed if any(type(v.op) is Slot or is_weight(v) for v in tree(at))}
    values = evaluated([at for at in packed if at not in weighty], context=context)
    for at, value in values.items():
        (whole,) = at.inputs
        made = at.owner.insert_instruction(at, _literal(whole.op, value), origins=at.origins)
        at.owner.replace_instruction(at, made)
        at.owner.remove_instruction(at)
    hoist(program, [at for at in packed if at in weighty])

"""Fuses products and lookups with the dequantisation of the small integers they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from migx.dim import Extent
from migx.fusion.narrow_floats import FORMATS
from migx.fusion.outlining import Bundle, Outlining
from migx.ir import Instruction, Module
from migx.manager import PassManager
from migx.op import Operation
from migx.ops.fused import Group
from migx.ops.packing import FLAT, Unpack, UnpackInt4
from migx.ops.pointwise import Convert
from migx.ops.quantization import DequantizeLinear
from migx.planning import is_block, source, viewed
from migx.shape import BF16, F16, F32, I8, U8
from migx.weights import may_be_finite
from migx.weights.constants import is_unpacked

Is = Callable[[Instruction], bool]
PRODUCTS = frozenset({"dot", "convolution", "quant_dot", "quant_convolution"})
TAGS = {**dict.fromkeys(PRODUCTS, "int4_gemm"), "gather": "int4_gather"}
"""The tag of the group of each operation that reads unpacked values."""
WIDENED = {"dot": "gemm_epilogue", "convolution": "conv_epilogue"}
"""The tag of the group of each operation that reads widened values."""


class FuseInt4(Outlining):
    """Makes a ``group`` of a dot or convolution and all operations between it and the packed
    storage of its weights, tagged ``int4_gemm``, so that a kernel can unpack as it multiplies.

    These are ``unpack_int4``, ``dequantizelinear``, views, converts, scales and offsets in any
    order, also of packed zero points. Those that several products use go into each group. It runs
    before the fusions of arithmetic, which would take scales away. MIGraphX's gpu::fuse_mlir does
    this.

    Likewise, dequantised weights in bytes go with a ``dot``, and 16-bit floats converted to f32
    with a dot or a convolution, into a ``gemm_epilogue`` or ``conv_epilogue``; blocks are kept.

    A ``gather`` with only views between it and unpacked storage becomes a group tagged
    ``int4_gather``, so that a kernel unpacks only what is picked. With ``blocks``, a product may
    read one block of a constant that an index picks: the block is picked in packed form, and its
    unpacking goes with the product.
    """

    blocks: bool = False
    variants = ("blocks=true",)

    def apply(self, module: Module, manager: PassManager) -> bool:
        dots = [at for at in module if self.blocks and at.op.name == "dot"]
        found = [block for dot in dots for block in _blocks(dot)]
        picked = [manager.change(self, "pick", at, partial(_pick_as_stored, at)) for at in found]
        return super().apply(module, manager) or any(picked)

    def bundles(self, module: Module) -> list[Bundle]:
        known: dict[Instruction, bool] = {}
        found = list[Bundle]()
        for at in [at for at in module if at.op.name in TAGS]:
            members = _unpacking(at, known)
            if members and (at.op.name in PRODUCTS or _picks_levels(at, members)):
                members = _owned(members, at)
                found.append(Bundle((*members, at), _group(at, known)))
            elif at.op.name in WIDENED and (members := _widening(at, self.blocks)):
                found.append(Bundle((*_owned(members, at), at), Group(WIDENED[at.op.name])))
        return found


def _blocks(product: Instruction) -> Iterator[Instruction]:
    """The blocks of unpacked storage that only a product reads, through views and dequantisation by
    constants or blocks of constants.
    """
    work = list(product.inputs)
    while work:
        at = work.pop()
        if at.module is not product.module or at.use_count != 1:
            continue
        scaled = isinstance(at.op, DequantizeLinear) and all(map(_is_known, at.inputs[1:]))
        if viewed(at) is not None or scaled:
            work += at.inputs
        elif is_block(at) and _is_stored_in_bytes(at.inputs[0], at.shape.elements):
            yield at


def _is_known(value: Instruction) -> bool:
    """Whether a value is a constant, or a view of a block of one."""
    root = source(value)
    return (root.inputs[0] if is_block(root) else root).constant


def _is_stored_in_bytes(unpack: Instruction, elements: Extent) -> bool:
    """Whether an instruction unpacks constant storage, and so many elements are whole bytes."""
    if not isinstance(unpack.op, UnpackInt4) or unpack.op.axis != FLAT:
        return False
    return unpack.inputs[0].constant and elements % 2 == 0


def _pick_as_stored(block: Instruction) -> list[Instruction]:
    """Picks a block in packed form and unpacks it, instead of unpacking all and picking a block."""
    module, unpack = block.owner, block.inputs[0]
    inputs = unpack.inputs[0], block.inputs[1]
    picked = module.insert_instruction(block, block.op, *inputs, origins=block.origins)
    made = module.insert_instruction(block, unpack.op, picked, origins=unpack.origins)
    module.replace_instruction(block, made)
    return [picked, made]


def _picks_levels(at: Instruction, members: list[Instruction]) -> bool:
    """Whether a ``gather`` that is not constant reads unpacked storage through views only, and its
    indices do not.
    """
    plain = all(isinstance(v.op, Unpack) or viewed(v) is not None for v in members)
    return plain and at.inputs[1] not in members and not at.constant


def _unpacking(product: Instruction, known: dict[Instruction, bool]) -> list[Instruction]:
    """The instructions from packed storage to the operands of a product."""
    return _leading(product, lambda v: is_unpacked(v, known), lambda v: isinstance(v.op, Unpack))


def _widening(product: Instruction, blocks: bool) -> list[Instruction]:
    """The instructions from constants of 8 or 16 bits to the operands of a product in f32."""
    kinds = (Convert,) if product.op.name == "convolution" else (Convert, DequantizeLinear)
    if product.constant:
        return []

    def widens(at: Instruction) -> bool:
        return _widens(at, kinds, blocks)

    return _leading(product, widens, widens)


def _leading(product: Instruction, made: Is, reads_storage: Is) -> list[Instruction]:
    """The instructions, in order, that lead to the operands of a product and are ``made`` so, with
    views of their scales, but no members of tuples: a group reads tensors. Empty if none
    ``reads_storage``, or a scale is known to be infinite.
    """
    found: dict[Instruction, None] = {}
    work = [v for v in product.inputs if made(source(v))]
    while work:
        at = work.pop()
        if at.module is not product.module or at in found:
            continue
        below = viewed(at)
        if made(at) or (below is not None and not below.shape.parts):
            found[at] = None
            work += at.inputs
    if not any(map(reads_storage, found)) or not _may_be_scaled(found):
        return []
    return sorted(found, key=lambda at: at._label)


def _widens(at: Instruction, kinds: tuple[type[Operation], ...], blocks: bool) -> bool:
    """Whether an operation of ``kinds`` dequantises constant integers of 8 bits, or converts
    constant floats of 8 or 16 bits to f32; with ``blocks``, also a block of such constants.
    """
    if type(at.op) not in kinds:
        return False
    given = at.inputs[0]
    whole = given.inputs[0] if blocks and is_block(given) else given
    if not whole.constant or (whole is not given and is_unpacked(whole)):
        return False
    dtype = given.shape.dtype
    if type(at.op) is DequantizeLinear:
        return dtype in (I8, U8)
    return dtype in (F16, BF16, *FORMATS) and at.shape.dtype is F32


def _may_be_scaled(members: Iterable[Instruction]) -> bool:
    """Whether sums of levels may be scaled instead of levels: no scale is known to be infinite."""
    linear = [at for at in members if isinstance(at.op, DequantizeLinear)]
    return all(may_be_finite(at.inputs[1]) for at in linear)


def _owned(members: list[Instruction], product: Instruction) -> list[Instruction]:
    """The members, or copies for the product where others read some of them too."""
    inside = {*members, product}
    if all(inside.issuperset(at.users) for at in members):
        return members
    module = product.owner
    copies: dict[Instruction, Instruction] = {}
    for at in members:
        inputs = [copies.get(v, v) for v in at.inputs]
        copies[at] = module.insert_instruction(product, at.op, *inputs, origins=at.origins)
    for place, value in enumerate(product.inputs):
        if value in copies:
            module.replace_input(product, place, copies[value])
    return list(copies.values())


def _group(product: Instruction, known: dict[Instruction, bool]) -> Group:
    """The group, whose attributes tell how the weight is packed and scaled."""
    block, at = 0, next(v for v in product.inputs if is_unpacked(v, known))
    while not isinstance(at.op, Unpack):
        block = at.op.block if isinstance(at.op, DequantizeLinear) else block
        at = next(v for v in at.inputs if is_unpacked(v, known))
    axis = at.shape.rank - 1 if at.op.axis == FLAT else at.op.axis
    return Group(TAGS[product.op.name], axis, block)

"""Kernels of results made in regions, as ``migx.fusion.regions`` describes them, and of ``assume``.

Each region is written by ``fused.py``, so a concatenation fused with arithmetic reads its operands
once. Regions that differ only in addresses share their code, with a table of these: a concatenation
of two dozen parts is not two dozen kernels. A tile of the kernel is a share of each region.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from migx.argument import Argument
from migx.dim import Extent, maximum
from migx.fusion.kernels import Access, FusedKernel, Node
from migx.fusion.regions import described
from migx.ir import Instruction
from migx.ops.control import Assume
from migx.ops.fused import Group
from migx.targets.cpu.emit import I8, I64, PTR, Function, Value
from migx.targets.cpu.kernel import Frame, Kernel, memory_of
from migx.targets.cpu.kernels import fused
from migx.targets.cpu.kernels.fused_cut import TILE
from migx.targets.cpu.machine import Machine
from migx.targets.cpu.parts.epilogue import emittable

MOST = 128
"""More different regions than these are a long text for little work."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of a concatenation, alone or in its group, of a constant pad, a reverse or an
    assumption.
    """
    regions = described(at)
    groups = _alike(regions or [])
    if not regions or len(groups) > MOST:
        return None
    if not all(emittable(region.nodes, machine) for region in regions):
        return None
    frame = Frame(at, machine)
    tiles = maximum((at.shape.elements + TILE - 1) // TILE, 1)
    for group in groups:
        _write(frame, group, tiles)
    if isinstance(at.op, Assume):
        _check(frame, at.op)
    name = at.op.tag if isinstance(at.op, Group) else at.name
    over = ((0, 0),) if isinstance(at.op, Assume) else ()
    return frame.finished(name, tiles, flops=sum((r.flops for r in regions), 0), over=over)


def _alike(regions: Sequence[FusedKernel]) -> list[list[FusedKernel]]:
    """The regions, grouped by equality up to operands and offsets."""
    groups: dict[Hashable, list[FusedKernel]] = {}
    for region in regions:
        groups.setdefault(_form(region), []).append(region)
    return list(groups.values())


def _form(region: FusedKernel) -> Hashable:
    """A key of a region without its operands and offsets."""
    number = {access: i for i, access in enumerate(dict.fromkeys(region.accesses))}

    def what(node: Node) -> object:
        if isinstance(node.of, Access):
            return "access", number[node.of]
        return ("constant", id(node.of)) if isinstance(node.of, Argument) else node.of

    accesses = tuple((access.dtype, access.strides) for access in number)
    nodes = tuple((what(node), node.dtype, node.inputs) for node in region.nodes)
    outputs = tuple((node, number[access]) for node, access in region.outputs)
    return region.dims, accesses, nodes, outputs


def _write(frame: Frame, alike: Sequence[FusedKernel], tiles: Extent) -> None:
    """Writes the share of some like regions that a call for some of ``tiles`` tiles computes."""
    f, (first, *others) = frame.function, alike
    if not others:
        _write_share(frame, fused.Writer(frame, first), tiles)
        return
    places = [list(dict.fromkeys(region.accesses)) for region in alike]
    with f.loop(0, len(alike)) as turn:
        origins = [_origin(frame, like, turn.index) for like in zip(*places, strict=True)]
        _write_share(frame, fused.Writer(frame, first, origins), tiles)


def _origin(frame: Frame, accesses: Sequence[Access], number: Value) -> Value:
    """The address of the first element of the access with some number."""
    f = frame.function
    operand = f.element(frame.args, _picked(frame, [a.operand for a in accesses], number), PTR)
    offset = _picked(frame, [access.offset for access in accesses], number)
    return f.element(f.load(operand, PTR), offset, memory_of(accesses[0].dtype))


def _picked(frame: Frame, extents: Sequence[Extent], number: Value) -> Value:
    """The extent with some number: computed if each differs from the one before by as much, else
    looked up in a table, of where they are among the arguments unless all are constants.
    """
    f, first, step = frame.function, extents[0], extents[1] - extents[0]
    if all(extent == first + step * i for i, extent in enumerate(extents)):
        return number * frame.extent(step) + frame.extent(first)
    constants = [extent for extent in extents if isinstance(extent, int)]
    if len(constants) == len(extents):
        return _looked_up(f, constants, number)
    word = _looked_up(f, [frame.word(extent) for extent in extents], number)
    return f.load(f.element(frame.args, word, I64), I64)


def _looked_up(f: Function, numbers: Sequence[int], at: Value) -> Value:
    """The entry of a table of constants."""
    table = Value(f.module.constant(I64, numbers), PTR, f)
    return f.load(f.element(table, at, I64), I64)


def _write_share(frame: Frame, writer: fused.Writer, tiles: Extent) -> None:
    """The tiles of a region that belong to a call for some of ``tiles`` tiles of the kernel."""
    begin, end = (
        limit * frame.extent(writer.tiles) // frame.extent(tiles)
        for limit in (frame.begin, frame.end)
    )
    writer.write(begin, end)


def _check(frame: Frame, op: Assume) -> None:
    """Ends the run if the condition is not the expected one."""
    f = frame.function
    condition = f.load(frame.operands[1], I8)
    frame.fails(f.compare("ne", condition, int(op.expected)), op.fault)

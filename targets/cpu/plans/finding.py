"""Blocks of a packed constant that an index picks, such as the weights of one of many experts, read
in place.

The step of such a ``gather`` copies nothing. It computes the address of the block and stores it
into the words of the steps that read it: a table after its own words has the number of these words,
then the address of each.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.ops.formats import UnpackWeight
from migx.targets.cpu.emit import I8, I64, PTR, Function, Value
from migx.targets.cpu.kernel import Kernel, memory_of
from migx.targets.cpu.plans.control_kernels import text_of, word

FAULT = 2
"""The word that reports an index out of range."""


def finding(at: Instruction) -> Kernel:
    """The kernel that finds the block that a ``gather`` picks from a packed constant. An index out
    of range ends the run; until then the first block stands in.
    """
    packed, index = at.inputs[0], memory_of(at.inputs[1].shape.dtype)
    whole, count = packed.inputs[0].shape, int(packed.shape.dims[0])

    def write(f: Function, from_: Value, place: Value, *words: Value) -> None:
        _, most, nbytes, table = words
        given = f.cast(f.load(place, index), I64)
        number = f.select(given < 0, given + most, given)
        inside = f.compare("lt", number, most, signed=False)
        with f.unless(inside):
            f.store(f.as_index(1), word(f, FAULT))
        block = f.element(from_, f.select(inside, number, 0) * nbytes, I8)
        with f.loop(0, f.load(table, I64)) as k:
            f.store(block, f.load(f.element(table, k.index + 1, I64), PTR))

    return Kernel(
        "block",
        text_of("ppiiip", write),
        tiles=1,
        words=(0, count, int(whole.nbytes) // count),
        formats=((0, packed.op_as(UnpackWeight).format),),
        fault=f"{at.name}: an index is outside axis 0 of {packed.shape.text}",
        finds=True,
    )

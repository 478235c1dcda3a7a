"""Blocks of a packed constant that an index picks, as the weights of one expert of many: they are
read where they lie.

The step of such a ``gather`` copies nothing. It computes where the block begins, and writes this
address among the words of the steps that read it: a table behind its own words says how many words
those are, and then where each is.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.ops.formats import UnpackWeight
from migx.shape import I64
from migx.targets.cpu.kernel import Kernel
from migx.targets.cpu.plans.control_kernels import text_of

_BODY = """  %negative = icmp slt i64 %i, 0
  %from.end = add i64 %i, %count
  %place = select i1 %negative, i64 %from.end, i64 %i
  %inside = icmp ult i64 %place, %count
  br i1 %inside, label %find, label %fail
fail:
  store i64 1, ptr %at.fault
  br label %find
find:
  %safe = phi i64 [%place, %entry], [0, %fail]
  %by = mul i64 %safe, %bytes
  %block = getelementptr i8, ptr %from, i64 %by
  %readers = load i64, ptr %table
  br label %head
head:
  %k = phi i64 [0, %find], [%k2, %tell]
  %more = icmp slt i64 %k, %readers
  br i1 %more, label %tell, label %done
tell:
  %k2 = add i64 %k, 1
  %at.word = getelementptr i64, ptr %table, i64 %k2
  %word = load ptr, ptr %at.word
  store ptr %block, ptr %word
  br label %head
done:
  ret void
"""
_WORDS = "ptr from, ptr index, i64 fault, i64 count, i64 bytes, ptr table"


def finding(at: Instruction) -> Kernel:
    """The kernel that finds the block that a ``gather`` picks of a packed constant. One outside
    ends the run; until then the first stands for it.
    """
    packed, index = at.inputs[0], at.inputs[1].shape.dtype
    assert isinstance(packed.op, UnpackWeight)
    whole, count = packed.inputs[0].shape, int(packed.shape.dims[0])
    load = "  %i = load i64, ptr %index\n"
    if index is not I64:
        load = "  %raw = load i32, ptr %index\n  %i = sext i32 %raw to i64\n"
    return Kernel(
        "block",
        text_of(_WORDS, load + _BODY),
        tiles=1,
        words=(0, count, int(whole.nbytes) // count),
        formats=((0, packed.op.format),),
        fault=f"{at.name}: an index is outside axis 0 of {packed.shape.text}",
        finds=True,
    )

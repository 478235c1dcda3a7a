"""Kernels of values that depend only on sizes, ``dim_literal``, and of ``dynamic_range``.

They are little work, but on the host they would interrupt runs of kernels.
"""

from __future__ import annotations

from migx.ir import Instruction
from migx.ops.dims import DimLiteral, DynamicRange
from migx.targets.cpu.emit import F32, F64, I32, I64, Value
from migx.targets.cpu.kernel import Frame, Kernel, memory_of, type_of
from migx.targets.cpu.machine import Machine

MOST = 64
"""More values than these are a long text for little work."""


def kernel_for(at: Instruction, machine: Machine) -> Kernel | None:
    """The kernel of an instruction whose result has 32 or 64 bits, and is signed if an integer."""
    if type_of(at.shape.dtype) not in (I32, I64, F32, F64) or at.shape.dtype.kind == "uint":
        return None
    match at.op:
        case DimLiteral() if len(at.op.values) <= MOST:
            return _literal(Frame(at, machine), at.op)
        case DynamicRange():
            return _range(Frame(at, machine), at.op)
    return None


def _literal(frame: Frame, op: DimLiteral) -> Kernel:
    """One tile that writes every value."""
    f, to = frame.function, memory_of(frame.at.shape.dtype)
    with f.loop(frame.begin, frame.end):
        for index, value in enumerate(op.values):
            number = f.cast(frame.extent(value), to)
            f.store(number, f.element(frame.operands[0], index, to))
    return frame.finished("dim_literal", tiles=1)


def _range(frame: Frame, op: DynamicRange) -> Kernel:
    """One tile that counts."""
    f, to = frame.function, memory_of(frame.at.shape.dtype)
    start, limit, delta = (f.load(operand, to) for operand in frame.operands[:3])
    count = frame.extent(op.count)
    frame.fails(_is_other(start, limit, delta, count), "the range has another length than assumed")
    with f.loop(frame.begin, frame.end), f.loop(0, count) as at:
        number = f.cast(at.index, to) * delta + start
        f.store(number, f.element(frame.operands[3], at.index, to))
    return frame.finished("dynamic_range", tiles=1)


def _is_other(start: Value, limit: Value, delta: Value, count: Value) -> Value:
    """Whether a range has another number of elements, or none because its step is zero."""
    f = start.into
    if start.type.is_float:
        first, last, step = (f.cast(v, F64) for v in (start, limit, delta))
        found = f.maximum(f.intrinsic("ceil", (last - first) / step), 0.0)
        return f.compare("ne", found, f.cast(count, F64))
    first, last, step = (f.cast(v, I64) for v in (start, limit, delta))
    nothing = f.compare("eq", step, 0)
    by = f.select(nothing, 1, step)
    whole = f.op("sdiv", last - first, by)
    rest = last - first - whole * by
    more = f.compare("ne", rest, 0) & f.compare("eq", rest < 0, by < 0)
    found = f.maximum(whole + f.cast(more, I64), 0)
    return nothing | f.compare("ne", found, count)

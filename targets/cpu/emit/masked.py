"""Access to memory under masks: only some lanes are read or written.

x86 has instructions for it, with AVX-512 for all types, with AVX2 for those of 32 bits or more.
Elsewhere LLVM tests and moves one lane after another, so that most of a loop's time may go there;
as most masks have all lanes, these are moved together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migx.targets.cpu.emit.types import BF16, I16, I32, Type
from migx.targets.cpu.emit.values import Value

if TYPE_CHECKING:
    from migx.targets.cpu.emit.function import Function


def loaded(
    f: Function, pointer: Value, type_: Type, mask: Value, other: Value | None, align: int
) -> Value:
    """The lanes of a mask at an address, and the others of ``other``, by default 0."""
    moved = in_lanes(type_)
    rest = f.const(moved, 0) if other is None else f.bitcast(other, moved)

    def read() -> Value:
        name = f"llvm.masked.load.{moved.suffix}.p0"
        return f.call(name, moved, pointer, f.const(I32, align), mask, rest)

    if _one_instruction(f, type_):
        return f.bitcast(read(), type_)
    every = ~f.any_of(~mask)
    with f.when(every, [rest]) as whole:
        whole.carry(f.load(pointer, moved, align=align))
    with f.unless(every, whole.carried) as some:
        some.carry(read())
    return f.bitcast(some.carried[0], type_)


def store(f: Function, value: Value, pointer: Value, mask: Value, align: int) -> None:
    """Stores the lanes of a mask at an address."""
    bits = f.bitcast(value, in_lanes(value.type))

    def write() -> None:
        name = f"llvm.masked.store.{bits.type.suffix}.p0"
        f.invoke(name, bits, pointer, f.const(I32, align), mask)

    if _one_instruction(f, value.type):
        write()
        return
    every = ~f.any_of(~mask)
    with f.when(every):
        f.store(bits, pointer, align=align)
    with f.unless(every):
        write()


def in_lanes(type_: Type) -> Type:
    """The type in which lanes of a type are moved one by one: as bits if LLVM would round them, by
    a function that only a C compiler's runtime has.
    """
    return I16.times(type_.lanes) if type_.one == BF16 else type_


def _one_instruction(f: Function, type_: Type) -> bool:
    """Whether the CPU accesses memory under masks, by lanes of this type."""
    features = f.module.features
    return "avx512bw" in features or ("avx2" in features and type_.one.nbytes >= 4)

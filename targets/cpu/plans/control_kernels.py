"""The kernels between the steps of control flow: copies, and the counting of iterations."""

from __future__ import annotations

from collections.abc import Callable

from migx.targets.cpu.emit import I1, I8, I64, PTR, Function, Module, Type, Value
from migx.targets.cpu.kernel import PARAMETERS, Kernel

WORDS = {"p": PTR, "i": I64}
"""The types of words, by letter: addresses and numbers."""


def text_of(words: str, write: Callable[..., None]) -> str:
    """The text of a kernel whose arguments begin with these words; ``write`` gets the function and
    their values.
    """
    f = Module().function("kernel", PARAMETERS)
    write(f, *(f.load(word(f, i), WORDS[kind]) for i, kind in enumerate(words)))
    return f.module.text


def word(f: Function, index: int) -> Value:
    """The address of a word of the arguments."""
    return f.element(f.parameters[0], index, I64)


def _move(f: Function, from_: Value, to: Value, nbytes: Value) -> None:
    f.invoke("llvm.memmove.p0.p0.i64", to, from_, nbytes, f.const(I1, 0))


COPY = Kernel("copy", text_of("ppi", _move), tiles=1)
"""Copies bytes."""


def _settle(f: Function, from_: Value, index: Value, to: Value, nbytes: Value) -> None:
    with f.when(f.compare("ne", f.load(index, I64) & 1, 0)):
        _move(f, from_, to, nbytes)


SETTLE = Kernel("copy", text_of("pppi", _settle), tiles=1)
"""Copies bytes after an odd number of iterations."""


def _row(
    f: Function, from_: Value, index: Value, to: Value, times: Value, nbytes: Value, *places: Value
) -> None:
    number, (leap, start, step, leap2, start2, step2) = f.load(index, I64), places
    with f.loop(0, times) as k:
        source = f.element(from_, start + number * step + k.index * leap, I8)
        target = f.element(to, start2 + number * step2 + k.index * leap2, I8)
        _move(f, source, target, nbytes)


ROW = Kernel("row", text_of("pppiiiiiiii", _row), tiles=1)
"""Copies strided pieces whose offsets depend on the iteration number."""


def _told(f: Function, place: Value, type_: Type, usual: Value) -> Value:
    """The value at an address; ``usual`` if the address is 0."""
    with f.when(f.compare("ne", place, Value("null", PTR, f)), [usual]) as there:
        there.carry(f.load(place, type_))
    return there.carried[0]


def _state(number: Callable[[Function, Value], Value]) -> Callable[..., None]:
    """Writes the number of the next iteration, the condition, and whether it is to be run."""

    def write(f: Function, trips: Value, given: Value, iteration: Value, *rest: Value) -> None:
        (condition, going, capacity), next_ = rest, number(f, iteration)
        holds = _told(f, given, I8, f.const(I8, 1))
        most = f.minimum(_told(f, trips, I64, capacity), capacity)
        f.store(next_, iteration)
        f.store(holds, condition)
        f.store(holds & f.cast(next_ < most, I8, signed=False), going)

    return write


BEGIN = Kernel("loop", text_of("pppppi", _state(lambda f, _: f.as_index(0))), tiles=1)
"""The state of a loop before its first iteration."""
AGAIN = Kernel("loop", text_of("pppppi", _state(lambda f, at: f.load(at, I64) + 1)), tiles=1)
"""The state of a loop after an iteration, which gives the condition."""


def _count(f: Function, iteration: Value, _: Value, expected: Value) -> None:
    with f.when(f.compare("ne", f.load(iteration, I64), expected)):
        f.store(f.as_index(1), word(f, 1))


COUNT = Kernel(
    "loop",
    text_of("pii", _count),
    tiles=1,
    fault="the loop ends after another number of iterations than the dims of its results say",
)
"""Checks that a loop has run as often as the dims of its scan outputs say."""
REFUSED = Kernel(
    "refused",
    text_of("", lambda f: f.store(f.as_index(1), word(f, 0))),
    tiles=1,
    words=(0,),
)
"""The error that a module is to be run that cannot run with these sizes."""


def _rounds(
    f: Function, code: Value, words: Value, room: Value, times: Value, moved: Value
) -> None:
    _, begin, end, own = f.parameters
    entries, rest = word(f, 5), f.element(own, room, I8)

    def move(by: int) -> None:
        with f.loop(0, moved) as k:
            entry = f.element(entries, k.index * 3, I64)
            there = f.element(own, f.load(entry, I64), I64)
            far = f.load(f.element(entry, by, I64), I64)
            f.store(f.load(there, I64) + far, there)

    with f.loop(begin, end) as tile:
        _move(f, f.element(entries, moved * 3, I64), own, words * I64.nbytes)
        move(1)
        with f.loop(0, times):
            given = f"ptr {own.text}, i64 {tile.index.text}, i64 {(tile.index + 1).text}"
            f.do(f"call void {code.text}({given}, ptr {rest.text})")
            move(2)


ROUNDS = Kernel("rounds", text_of("piiii", _rounds), tiles=1)
"""Calls a kernel a number of times for each tile, advancing operands in between, in a copy of that
kernel's words, which follow its own.
"""
JUMP = Kernel("jump", "", tiles=0)
UNLESS = Kernel("jump", "", tiles=1)
KERNELS = (COPY, SETTLE, ROW, BEGIN, AGAIN, COUNT, REFUSED, ROUNDS)
"""The kernels that have code."""

"""Functions that append instructions to themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from migx.targets.cpu.emit import masked
from migx.targets.cpu.emit.types import F32, I1, I32, I64, PTR, VOID, Type, folded, literal
from migx.targets.cpu.emit.values import Carried, Loop, Operand, Value

if TYPE_CHECKING:
    from migx.targets.cpu.emit.module import Module


class Function:
    """A function being written. ``parameters`` are its values; ``flags`` are the fast-math flags on
    float arithmetic (``contract``: a product and a sum may become one fused operation).
    """

    def __init__(
        self,
        module: Module,
        name: str,
        parameters: Sequence[tuple[str, Type]],
        result: Type,
    ) -> None:
        self.module, self.name, self.result = module, name, result
        self.parameters = [Value(f"%{n}", t, self) for n, t in parameters]
        self.flags = ""
        self.at_entry: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self._block = "body"

    # Constants.

    def const(self, type_: Type, number: float) -> Value:
        """A constant, in all lanes."""
        one = literal(type_.one, number)
        if not type_.lanes:
            return Value(one, type_, self, number)
        zero = float(number) == 0 and one not in ("0x8000000000000000", "0xH8000", "0xR8000")
        text = "zeroinitializer" if zero else f"splat ({type_.one} {one})"
        return Value(text, type_, self, number)

    def vector(self, type_: Type, numbers: Sequence[float]) -> Value:
        """A constant vector of these lanes."""
        lanes = ", ".join(f"{type_.one} {literal(type_.one, n)}" for n in numbers)
        return Value(f"<{lanes}>", type_.times(len(numbers)), self)

    def poison(self, type_: Type) -> Value:
        """A poison value, which must not be observed."""
        return Value("poison", type_, self)

    def like(self, value: Value, operand: Operand) -> Value:
        """An operand beside a value: a number as a constant of its type, a scalar broadcast to its
        lanes.
        """
        if not isinstance(operand, Value):
            return self.const(value.type, operand)
        if value.type.lanes and not operand.type.lanes:
            return self.splat(operand, value.type.lanes)
        return operand

    # Instructions.

    def emit(self, instruction: str, type_: Type) -> Value:
        """The result of an instruction given as text."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"  {name} = {instruction}")
        return Value(name, type_, self)

    def do(self, instruction: str) -> None:
        """Appends an instruction that has no result."""
        self._lines.append(f"  {instruction}")

    def hoisted(self, instruction: str, type_: Type) -> Value:
        """The result of an instruction placed at the start of the function."""
        self._count += 1
        name = f"%v{self._count}"
        self.at_entry.append(f"  {name} = {instruction}")
        return Value(name, type_, self)

    def pair(self, a: Operand, b: Operand) -> tuple[Value, Value]:
        """Two operands as values of one type, of which at least one is a value."""
        if isinstance(a, Value):
            b = self.like(a, b)
            return (self.splat(a, b.type.lanes) if b.type.lanes and not a.type.lanes else a), b
        assert isinstance(b, Value)
        return self.like(b, a), b

    def op(self, name: str, a: Operand, b: Operand) -> Value:
        """A binary instruction on one type, by LLVM's name: ``sdiv``, ``ashr``, ..."""
        x, y = self.pair(a, b)
        flags = f" {self.flags}" if x.type.is_float and self.flags else ""
        return self.emit(f"{name}{flags} {x.type} {x.text}, {y.text}", x.type)

    def arithmetic(self, name: str, a: Operand, b: Operand) -> Value:
        """``op`` by the names of integer instructions, also for floats; simplified if a constant
        allows.
        """
        x, y = self.pair(a, b)
        if x.type.is_float:
            return self.op("f" + name, x, y)
        if x.number is not None and y.number is not None:
            return self.const(x.type, folded(name, int(x.number), int(y.number)))
        if name in ("add", "mul") and x.number is not None:
            x, y = y, x
        if (name in ("add", "sub") and y.number == 0) or (
            name in ("mul", "udiv") and y.number == 1
        ):
            return x
        if (name == "mul" and y.number == 0) or (name == "urem" and y.number == 1):
            return self.const(x.type, 0)
        return self.op(name, x, y)

    def negated(self, x: Value) -> Value:
        """-x."""
        if x.type.is_float:
            return self.emit(f"fneg {x.type} {x.text}", x.type)
        return self.arithmetic("sub", self.const(x.type, 0), x)

    def compare(self, relation: str, a: Operand, b: Operand, *, signed: bool = True) -> Value:
        """Whether a relation (``lt``, ``le``, ``gt``, ``ge``, ``eq``, ``ne``) holds, as i1. With a
        NaN only ``ne`` holds.
        """
        x, y = self.pair(a, b)
        to = Type("i1", x.type.lanes)
        if x.type.is_float:
            return self.lies("une" if relation == "ne" else "o" + relation, x, y)
        code = relation if relation in ("eq", "ne") else ("s" if signed else "u") + relation
        return self.emit(f"icmp {code} {x.type} {x.text}, {y.text}", to)

    def lies(self, how: str, x: Value, y: Value) -> Value:
        """A comparison of floats by LLVM's name, as i1."""
        return self.emit(f"fcmp {how} {x.type} {x.text}, {y.text}", Type("i1", x.type.lanes))

    def select(self, condition: Value, a: Operand, b: Operand) -> Value:
        """The first where the condition holds, else the second."""
        x, y = self.pair(a, b)
        return self.emit(
            f"select {condition.type} {condition.text}, {x.type} {x.text}, {y.type} {y.text}",
            x.type,
        )

    def intrinsic(self, name: str, *operands: Operand) -> Value:
        """A call of ``llvm.<name>``, overloaded on the type of its first operand: ``sqrt``,
        ``fabs``, ``maximum``, ``smin``, ``ctpop``.
        """
        first = next(o for o in operands if isinstance(o, Value))
        values = [self.like(first, o) for o in operands]
        return self.call(f"llvm.{name}.{first.type.suffix}", first.type, *values)

    def call(self, name: str, result: Type, *values: Value, flags: str = "") -> Value:
        """A call of a function, which is declared here, or of an intrinsic by its full name."""
        return self.emit(f"call {flags}{self._called(name, result, values)}", result)

    def invoke(self, name: str, *values: Value) -> None:
        """A call of a function without a result."""
        self.do(f"call {self._called(name, VOID, values)}")

    def _called(self, name: str, result: Type, values: Sequence[Value]) -> str:
        types = ", ".join(str(v.type) for v in values)
        self.module.declare(f"declare {result} @{name}({types})")
        given = ", ".join(f"{v.type} {v.text}" for v in values)
        return f"{result} @{name}({given})"

    def fma(self, a: Operand, b: Operand, c: Operand) -> Value:
        """The fused multiply-add a * b + c, rounded once."""
        widest = max((v for v in (a, b, c) if isinstance(v, Value)), key=lambda v: v.type.lanes)
        return self.intrinsic("fma", *(self.like(widest, v) for v in (a, b, c)))

    def muladd(self, a: Value, b: Value, c: Value) -> Value:
        """The sum a * b + c; for floats, rounded once if the machine does that as fast."""
        return self.intrinsic("fmuladd", a, b, c) if c.type.is_float else a * b + c

    def minimum(self, a: Operand, b: Operand) -> Value:
        """The lesser: NaN if either float is, signed for integers."""
        return self._extreme("minimum", "smin", "lt", a, b)

    def maximum(self, a: Operand, b: Operand) -> Value:
        """The greater: NaN if either float is, signed for integers."""
        return self._extreme("maximum", "smax", "gt", a, b)

    def _extreme(self, name: str, of_integers: str, before: str, a: Operand, b: Operand) -> Value:
        x, y = self.pair(a, b)
        if not x.type.is_float:
            if x.number is not None and y.number is not None:
                return self.const(x.type, (min if before == "lt" else max)(x.number, y.number))
            return self.intrinsic(of_integers, x, y)
        if x.number is not None:
            x, y = y, x
        if y.number is not None and y.number == y.number:
            return self.select(self.compare(before, y, x), y, x)  # one instruction on x86
        # Which of two zeros is taken does not matter, and telling them apart is expensive on x86.
        return self.call(f"llvm.{name}.{x.type.suffix}", x.type, x, y, flags="nsz ")

    def cast(self, x: Value, scalar: Type, *, signed: bool = True) -> Value:
        """A number in another scalar type; floats to integers truncate and saturate."""
        to = scalar.times(x.type.lanes)
        if to == x.type:
            return x
        if x.number is not None and not (x.type.is_float and not to.is_float):
            return self.const(to, x.number)
        wider = to.bits > x.type.bits
        if x.type.is_float and to.is_float:
            if to.bits == x.type.bits:
                return self.cast(self.cast(x, F32), scalar)
            name = "fpext" if wider else "fptrunc"
        elif x.type.is_float:
            return self._truncated(x, to, signed)
        elif to.is_float:
            name = "sitofp" if signed and x.type.bits > 1 else "uitofp"
        else:
            name = ("sext" if signed and x.type.bits > 1 else "zext") if wider else "trunc"
        return self.emit(f"{name} {x.type} {x.text} to {to}", to)

    def _truncated(self, x: Value, to: Type, signed: bool) -> Value:
        """A float as an integer; LLVM's own saturating instruction goes lane by lane on x86."""
        x = self.cast(x, F32) if x.type.bits == 16 else x
        inside = self.emit(f"freeze {to} {self.toward_zero(x, to, signed=signed).text}", to)
        least, above = (-(2 ** (to.bits - 1)), 2 ** (to.bits - 1)) if signed else (0, 2**to.bits)
        inside = self.select(x < above, inside, above - 1 if signed else -1)
        inside = self.select(x >= least, inside, least)
        return self.select(self.compare("ne", x, x), 0, inside)

    def toward_zero(self, x: Value, scalar: Type, *, signed: bool = True) -> Value:
        """A float truncated to an integer; unspecified if it does not fit."""
        to = scalar.times(x.type.lanes)
        return self.emit(f"{'fptosi' if signed else 'fptoui'} {x.type} {x.text} to {to}", to)

    def bitcast(self, x: Value, to: Type) -> Value:
        """The same bits as another type of the same size."""
        return x if to == x.type else self.emit(f"bitcast {x.type} {x.text} to {to}", to)

    # Vectors.

    def splat(self, x: Value, lanes: int) -> Value:
        """A scalar in every lane; with 0 lanes, itself."""
        if not lanes or x.type.lanes:
            return x
        if x.number is not None:
            return self.const(x.type.times(lanes), x.number)
        to = x.type.times(lanes)
        first = self.emit(f"insertelement {to} poison, {x.type} {x.text}, i64 0", to)
        return self.shuffle(first, self.poison(to), [0] * lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """The lanes of a and then b with these numbers; -1 is any."""
        mask = ", ".join(f"i32 {n}" if n >= 0 else "i32 poison" for n in lanes)
        x, y = (self.bitcast(v, masked.in_lanes(v.type)) for v in (a, b))
        made = self.emit(
            f"shufflevector {x.type} {x.text}, {y.type} {y.text}, <{len(lanes)} x i32> <{mask}>",
            x.type.times(len(lanes)),
        )
        return self.bitcast(made, a.type.times(len(lanes)))

    def extract(self, x: Value, lane: int | Value) -> Value:
        """One lane."""
        index = lane.text if isinstance(lane, Value) else lane
        return self.emit(f"extractelement {x.type} {x.text}, i64 {index}", x.type.one)

    def insert(self, x: Value, scalar: Value, lane: int) -> Value:
        """The vector with one lane replaced."""
        text = f"insertelement {x.type} {x.text}, {scalar.type} {scalar.text}, i64 {lane}"
        return self.emit(text, x.type)

    def compress(self, x: Value, mask: Value) -> Value:
        """The lanes of a vector selected by a mask, packed to the front; the rest is
        unspecified.
        """
        name = f"llvm.experimental.vector.compress.{x.type.suffix}"
        return self.call(name, x.type, x, mask, self.poison(x.type))

    def iota(self, type_: Type) -> Value:
        """0, 1, 2, ... in the lanes of an integer vector; 0 as a scalar."""
        return self.vector(type_, range(type_.lanes)) if type_.lanes else self.const(type_, 0)

    def first_lanes(self, count: Value, lanes: int, rows: int = 1) -> Value:
        """A mask of the first ``count`` (an i64) lanes of each of ``rows`` rows of ``lanes``
        lanes.
        """
        # If LLVM sees that a mask is one lane, it stores the full width of the truncated value.
        near = self.opaque(self.cast(self.intrinsic("smin", count, lanes), I32))
        return self.vector(I32, [*range(lanes)] * rows) < near

    def any_of(self, mask: Value) -> Value:
        """Whether any lane of a mask holds, as i1."""
        if not mask.type.lanes:
            return mask
        return self.compare("ne", self.bitcast(mask, Type(f"i{mask.type.lanes}")), 0)

    def count_of(self, mask: Value) -> Value:
        """The number of lanes of a mask that hold, as an i64."""
        bits = self.bitcast(mask, Type(f"i{mask.type.lanes}"))
        return self.cast(self.intrinsic("ctpop", bits), I64, signed=False)

    def opaque(self, x: Value) -> Value:
        """The same integer, opaque to LLVM's optimiser."""
        return self.emit(f'call {x.type} asm "", "=r,0"({x.type} {x.text})', x.type)

    # Memory.

    def element(self, pointer: Value, index: Operand, type_: Type) -> Value:
        """The address of an element of an array; i1 is stored as i8."""
        if not isinstance(index, Value):
            index = self.const(I64, index)
        if index.number == 0:
            return pointer
        unit = Type("i8") if type_.scalar == "i1" else type_.one
        return self.emit(f"getelementptr {unit}, ptr {pointer.text}, i64 {index.text}", PTR)

    def load(
        self,
        pointer: Value,
        type_: Type,
        *,
        mask: Value | None = None,
        other: Value | None = None,
        align: int | None = None,
    ) -> Value:
        """The value at an address; ``align`` is in bytes, by default that of one scalar. With a
        mask only its lanes are read, and the others are those of ``other``, by default 0.
        """
        unit = align or type_.one.nbytes
        if mask is None:
            return self.emit(f"load {type_}, ptr {pointer.text}, align {unit}", type_)
        return masked.loaded(self, pointer, type_, mask, other, unit)

    def store(
        self, value: Value, pointer: Value, *, mask: Value | None = None, align: int | None = None
    ) -> None:
        """Stores a value at an address; with a mask, only its lanes."""
        unit = align or value.type.one.nbytes
        if mask is None:
            self.do(f"store {value.type} {value.text}, ptr {pointer.text}, align {unit}")
        else:
            masked.store(self, value, pointer, mask, unit)

    def gather(
        self, pointer: Value, indices: Value, type_: Type, mask: Value | None = None
    ) -> Value:
        """Elements of an array at a vector of i64 indices, one for each lane."""
        to = masked.in_lanes(type_.times(indices.type.lanes))
        places, chosen = self._places(pointer, indices, type_, mask)
        name, size = f"llvm.masked.gather.{to.suffix}.{places.type.suffix}", type_.one.nbytes
        read = self.call(name, to, places, self.const(I32, size), chosen, self.const(to, 0))
        return self.bitcast(read, type_.times(to.lanes))

    def scatter(
        self, value: Value, pointer: Value, indices: Value, mask: Value | None = None
    ) -> None:
        """Stores each lane at its own index of an array."""
        places, chosen = self._places(pointer, indices, value.type, mask)
        bits = self.bitcast(value, masked.in_lanes(value.type))
        name = f"llvm.masked.scatter.{bits.type.suffix}.{places.type.suffix}"
        self.invoke(name, bits, places, self.const(I32, bits.type.one.nbytes), chosen)

    def _places(
        self, pointer: Value, indices: Value, type_: Type, mask: Value | None
    ) -> tuple[Value, Value]:
        """The addresses of elements of an array, and the mask, by default all lanes."""
        many = PTR.times(indices.type.lanes)
        text = f"getelementptr {type_.one}, ptr {pointer.text}, {indices.type} {indices.text}"
        return self.emit(text, many), mask or self.const(I1.times(many.lanes), 1)

    def prefetch(self, pointer: Value, *, locality: int = 3) -> None:
        """Prefetches a cache line; locality 0 is evicted soon, 3 stays."""
        self.invoke("llvm.prefetch.p0", pointer, *(self.const(I32, n) for n in (0, locality, 1)))

    def local(self, type_: Type, count: int = 1) -> Value:
        """Stack memory, live while the function runs, aligned to 64 bytes."""
        return self.hoisted(f"alloca {type_}, i64 {count}, align 64", PTR)

    def reread(self, constant: Value) -> Value:
        """A constant that is read from memory here. LLVM moves constants out of all loops, where
        they take registers from other loops; this one it leaves here.
        """
        place = self.local(constant.type)
        self.at_entry.append(f"  store {constant.type} {constant.text}, ptr {place.text}")
        return self.emit(f"load volatile {constant.type}, ptr {place.text}", constant.type)

    # Control flow.

    def block(self, name: str) -> str:
        """A name for a new block."""
        self._count += 1
        return f"{name}{self._count}"

    def begin(self, block: str) -> None:
        """Continues in another block; the one before must have ended."""
        self._lines.append(f"{block}:")
        self._block = block

    @contextmanager
    def loop(
        self, begin: Operand, end: Operand, step: Operand = 1, carry: Sequence[Value] = ()
    ) -> Iterator[Loop]:
        """A loop over i64 from ``begin`` while less than ``end``, tested before each turn."""
        first, last = self.as_index(begin), self.as_index(end)
        head, body, done = self.block("head"), self.block("turn"), self.block("done")
        before = self._block
        self.do(f"br label %{head}")
        self.begin(head)
        place = len(self._lines)
        phis = [self.emit("", v.type) for v in (first, *carry)]
        index = phis[0]
        more = self.emit(f"icmp slt i64 {index.text}, {last.text}", I1)
        self.do(f"br i1 {more.text}, label %{body}, label %{done}")
        self.begin(body)
        loop = Loop(index, phis[1:])
        loop.next = phis[1:]
        yield loop
        following = index + step
        if loop.ended is not None:
            following = self.select(loop.ended, last, following)
        starts = (first, *carry)
        for k, (phi, start, then) in enumerate(
            zip(phis, starts, (following, *loop.next), strict=True)
        ):
            self._lines[place + k] = (
                f"  {phi.text} = phi {phi.type} [{start.text}, %{before}], "
                f"[{then.text}, %{self._block}]"
            )
        self.do(f"br label %{head}")
        self.begin(done)
        loop.carried = phis[1:]

    def by_vectors(self, begin: Operand, end: Operand, lanes: int) -> Iterator[tuple[Value, int]]:
        """Loops over i64 from ``begin`` while less than ``end``, which is not below 0, by
        ``lanes``, then one by one over the rest: gives the index and the lanes, 0 for a scalar. The
        body is written twice.
        """
        first, last = self.as_index(begin), self.as_index(end)
        count = last if first.number == 0 else self.maximum(last - first, 0)
        whole = first + count // lanes * lanes if lanes > 1 else first
        for start, stop, many in ((first, whole, lanes), (whole, last, 0))[lanes < 2 :]:
            with self.loop(start, stop, max(1, many)) as turn:
                yield turn.index, many

    def under_masks(
        self, count: Value, lanes: int, *, whole: bool = False
    ) -> Iterator[tuple[Value, Value | None]]:
        """Loops over ``count`` elements by vectors; unless these are known to be ``whole``, the
        rest is one vector under a mask. The body is written twice.
        """
        full = count // lanes * lanes
        with self.loop(0, full, lanes) as turn:
            yield turn.index, None
        if not whole and not (count.number is not None and count.number % lanes == 0):
            with self.when(count > full):
                yield full, self.first_lanes(count - full, lanes)

    @contextmanager
    def when(self, condition: Value, carry: Sequence[Value] = ()) -> Iterator[Carried]:
        """Executes the body only if an i1 holds; if not, the values given stay ``carried``."""
        body, done, before = self.block("when"), self.block("after"), self._block
        self.do(f"br i1 {condition.text}, label %{body}, label %{done}")
        self.begin(body)
        inside = Carried(list(carry))
        yield inside
        last = self._block
        self.do(f"br label %{done}")
        self.begin(done)
        inside.carried = [
            self.emit(f"phi {v.type} [{v.text}, %{before}], [{then.text}, %{last}]", v.type)
            for v, then in zip(carry, inside.next, strict=True)
        ]

    def unless(
        self, condition: Value, carry: Sequence[Value] = ()
    ) -> AbstractContextManager[Carried]:
        """Executes the body only if an i1 does not hold."""
        return self.when(~condition, carry)

    def as_index(self, operand: Operand) -> Value:
        """An i64."""
        return operand if isinstance(operand, Value) else self.const(I64, operand)

    @property
    def text(self) -> str:
        """The function as text."""
        given = ", ".join(f"{p.type} {p.text}" for p in self.parameters)
        end = ["  ret void"] if self.result == VOID else []
        return "\n".join(
            [
                f"define {self.result} @{self.name}({given}) {{",
                "entry:",
                *self.at_entry,
                "  br label %body",
                "body:",
                *self._lines,
                *end,
                "}",
            ]
        )

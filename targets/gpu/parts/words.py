"""Four-bit weights read eight at a time: for products with one row, of a matrix that is packed
along its columns or its depth, and scaled by columns, or by blocks of the depth.

Such a product would be limited by arithmetic, not memory, if each weight were unpacked, scaled and
multiplied by itself: a GPU has a dozen operations per byte that it reads. So a word of eight
weights is loaded at once, and each takes three operations: a word with all but four bits masked,
combined with an exponent that makes the lowest of these count 1, is a float: the weight plus a
power of two. Less this and the zero point, it is multiplied by the row's element; the scale of a
block is multiplied by the block's sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from migx.ir import Instruction
from migx.ops.layout import Slice
from migx.ops.packing import FLAT, Unpack
from migx.ops.quantization import DequantizeLinear
from migx.shape import U32
from migx.targets.gpu.emit.expressions import BOTH, Expr, Part
from migx.targets.gpu.emit.text import Writer, is_aligned
from migx.targets.gpu.parts.reader import VIEWS, Reader, axes_below
from migx.targets.gpu.tiles import AHEAD, whole

PER = 8
"""The weights in a word."""
TOPS = [1 << 23 - 4 * n for n in range(5)]
"""The offsets of the floats of the five lowest weights of a word: powers of two whose floats have
the bits that count 1 to 8 where the word has the weight.
"""
SHIFTED = PER - len(TOPS)
"""The weights by which a word is shifted for the others."""
FIRST = 0x4B000000
"""The bits of the first of these as a float; the exponent of each next one is 4 less."""
USUAL = 32
"""The longest block of weights that all have the same scale."""
LONGEST = 1024
"""The longest block along the depth: eight columns of eight such blocks are a program's share."""


@dataclass(frozen=True)
class Words:
    """A matrix stored in words: the ``operand`` that holds them, ``along_depth`` or else along
    columns, whether its numbers are ``signed``, and the instruction that scales them, by columns
    and maybe by blocks of the depth; in its result the columns may be the ``first`` axis.
    """

    operand: int
    along_depth: bool
    signed: bool
    scaled: Instruction
    first: bool

    @property
    def block(self) -> int:
        """The indices of the depth that share a scale; if all do, so many that are taken as if they
        alone did.
        """
        depth, _ = self.size
        return self.scaled.op_as(DequantizeLinear).block or math.gcd(depth // PER, USUAL)

    @property
    def size(self) -> tuple[int, int]:
        """The depth and the number of columns of the matrix."""
        depth, columns = (int(d) for d in self.scaled.shape.dims)
        return (columns, depth) if self.first else (depth, columns)

    def sums(
        self,
        reader: Reader,
        loop: tuple[Expr, int],
        word: Expr,
        row: Callable[[Expr], Expr],
        totals: Sequence[Expr],
    ) -> None:
        """Adds the products of one iteration of the loop over the depth, given by its start and its
        number of blocks, to the totals of the first to the eighth columns of words; ``row`` gives
        the row's element at an index.
        """
        w, (begin, count) = reader.writer, loop
        line = w.let(f"tl.arange(0, {count})[None, :]", frozenset({1}))
        block = w.let(w.let(begin // self.block) + line)
        exponents = _exponents(w)
        columns = [Expr(f"({word.text} * {PER} + {n})", word.over) for n in range(PER)]
        granules = [self._granule(reader, block, column) for column in columns]
        tops = [self._top(reader, granule, n) for n, granule in enumerate(granules)]
        sums = [w.variable(f"tl.zeros_like({total.text})", BOTH) for total in totals]
        with w.loop(self.block, 1, ahead=AHEAD) as place:
            deep = w.let(w.let(block * self.block) + place)
            x = row(deep)
            words = self._read(w, w.let(w.let(deep * w.distance(self.size[1] // PER)) + word))
            for n, (total, top) in enumerate(zip(sums, tops, strict=True)):
                w.line(f"{total.text} += {x.text} * {_number(words, n, exponents, top)}")
        for total, part, granule in zip(totals, sums, granules, strict=True):
            scale = reader.value(self.scaled.inputs[1], granule[0])
            w.line(f"{total.text} += {part.text} * {scale.text}.to(tl.float32)")

    def sums_along_depth(
        self,
        reader: Reader,
        loop: tuple[Expr, int],
        column: Expr,
        row: Callable[[Expr], Expr],
        total: Expr,
    ) -> None:
        """The same for words along the depth, to the total of each column and block. The row's
        elements are loaded at once, then split by the position in words of the weights they are
        multiplied by.
        """
        w, (begin, count) = reader.writer, loop
        per = self.block // PER
        line = w.let(f"tl.arange(0, {count})[None, :, None]", frozenset({1}))
        block = w.let(w.let(begin // self.block) + line)
        place = w.let(f"tl.arange(0, {per})[None, None, :]", frozenset({2}))
        granule = self._granule(reader, block, column)
        exponents, size = _exponents(w), count * self.block
        with w.masked({}):
            x = w.spread(row(w.numbers(0, 1, size, begin)), [size])
        x = w.let(f"tl.reshape({x.text}, [1, {count}, {per}, 2, 2, 2])", frozenset({1, 2}))
        word = w.let(w.let(block * per) + place)
        words = self._read(w, w.let(w.let(column * w.distance(self.size[0] // PER)) + word))
        sums = w.variable(f"tl.zeros_like({words[0].text}).to(tl.float32)", words[0].over)
        for n, each in enumerate(apart(w, x, PER)):
            number = _number(words, n, exponents, self._top(reader, granule, n))
            w.line(f"{sums.text} += {each.text} * {number}")
        scale = reader.value(self.scaled.inputs[1], granule[0])
        of_blocks = f"tl.sum({sums.text}, axis=2, keep_dims=True)"
        w.line(f"{total.text} += {of_blocks} * {scale.text}.to(tl.float32)")

    def _read(self, w: Writer, where: Expr) -> tuple[Expr, Expr]:
        """Some words, and the same shifted by three weights; signed numbers are biased by 8."""
        found = w.load(self.operand, where, U32, raw=True)
        if self.signed:
            found = w.let(f"({found.text} ^ 0x88888888)", found.over)
        return found, w.let(f"({found.text} >> {4 * SHIFTED})", found.over)

    def _granule(self, reader: Reader, block: Expr, column: Expr) -> list[list[Part]]:
        """The indices of the scale and the zero point of blocks and columns."""
        deep = replace(block, outer=(block, self.block))
        op, parameters = self.scaled.op_as(DequantizeLinear), self.scaled.inputs[1:]
        places = [column, deep] if self.first else [deep, column]
        return [reader.granular(self.scaled, op, p, places) for p in parameters]

    def _top(self, reader: Reader, granule: list[list[Part]], number: int) -> str:
        """The offset to subtract from the float of some bits, at one of the eight positions."""
        w, usual = reader.writer, TOPS[_place(number)] + 8.0 * self.signed
        if len(self.scaled.inputs) < 3:
            return f"{usual}"
        zero = reader.value(self.scaled.inputs[2], granule[1])
        return w.let(f"({zero.text}.to(tl.float32) + {usual})", zero.over).text


def _exponents(w: Writer) -> list[Expr]:
    """The bits of the offsets, as expressions that the compiler does not see to be constant: so
    they are in registers, and one instruction of NVIDIA's, which has room for one constant, masks
    and combines.
    """
    bits = [FIRST - (4 << 23) * n for n in range(len(TOPS))]
    return [w.let(f"({each} - tl.program_id(1)).to(tl.uint32)") for each in bits]


def _place(number: int) -> int:
    """Where one of the eight weights is in a word, or in the shifted word."""
    return number if number < len(TOPS) else number - SHIFTED


def _number(words: tuple[Expr, Expr], n: int, exponents: Sequence[Expr], top: str) -> str:
    """One of the eight weights of words, given also as shifted, as a float."""
    word, place = words[n >= len(TOPS)], _place(n)
    bits = f"({word.text} & {15 << 4 * place}) | {exponents[place].text}"
    return f"(({bits}).to(tl.float32, bitcast=True) - {top})"


def words_of(reader: Reader, right: Instruction) -> Words | None:
    """How a right operand is stored in words, if it is."""
    value, first = _matrix(right)
    op, shape = value.op, value.shape
    if not isinstance(op, DequantizeLinear) or shape.rank != 2 or not shape.static:
        return None
    level, turned = _matrix(value.inputs[0])
    if not isinstance(level.op, Unpack) or level.op.axis not in (FLAT, 1, -1):
        return None
    packed, stored = level.inputs[0], level.op.stored(level.inputs[0].shape.dtype)
    if packed not in reader.operands or stored.bits != 4 or stored.is_float:
        return None
    number = reader.operands[packed]
    if not is_aligned(reader.at.inputs[number]) or not reader.shape(packed).standard:
        return None
    by_block = op.axis % 2 == first
    if level.shape.rank != 2 or not whole(level.shape.dims[-1], PER) or by_block != bool(op.block):
        return None
    found = Words(number, first != turned, stored.kind == "int", value, first)
    uneven = found.block % PER or found.block & (found.block - 1) or found.block > LONGEST
    return None if found.along_depth and uneven else found


def _matrix(value: Instruction) -> tuple[Instruction, bool]:
    """The value that a matrix, also a broadcast one, views, and whether it is transposed."""
    turned = False
    while isinstance(value.op, VIEWS) and not isinstance(value.op, Slice):
        last, rank = list(axes_below(value) or ())[-2:], value.inputs[0].shape.rank
        if last not in ([rank - 2, rank - 1], [rank - 1, rank - 2]):
            break
        turned ^= last[0] == rank - 1
        value = value.inputs[0]
    return value, turned


def apart(writer: Writer, value: Expr, many: int) -> list[Expr]:
    """A value split along its last axes, of extent 2, into ``many`` values in row-major order."""
    if many == 1:
        return [value]
    pair = writer.let(f"tl.split({value.text})", value.over)
    halves = [apart(writer, replace(pair, text=f"{pair.text}[{n}]"), many // 2) for n in (0, 1)]
    return [each for both in zip(*halves, strict=True) for each in both]


def joined(writer: Writer, totals: Sequence[Expr]) -> Expr:
    """The given columns interleaved, in order."""
    if len(totals) == 1:
        return totals[0]
    even, odd = (joined(writer, totals[half::2]) for half in (0, 1))
    return writer.let(f"tl.interleave({even.text}, {odd.text})", even.over)

"""Four-bit weights read eight at a time: for products with one row, of a matrix that is packed
along its columns and scaled by blocks of the depth.

Such a product would be limited by arithmetic, not memory, if each weight were unpacked, scaled and
multiplied by itself: a GPU has a dozen operations per byte that it reads. So a word of eight
weights is loaded at once, and each takes three operations: a word with all but four bits masked,
combined with the exponent of 2**23, is a float: 2**23 plus the weight times a power of 16 that
depends on its position. Less 2**23 and the zero point, it is multiplied by the row's element; the
scale of a block is multiplied by the block's sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from migx.ir import Instruction
from migx.ops.layout import Multibroadcast, Squeeze, Unsqueeze
from migx.ops.packing import FLAT, Unpack
from migx.ops.quantization import DequantizeLinear
from migx.shape import U32
from migx.targets.gpu.emit.expressions import BOTH, Expr, Part
from migx.targets.gpu.emit.text import Writer
from migx.targets.gpu.parts.reader import Reader
from migx.targets.gpu.runs.places import is_aligned
from migx.targets.gpu.tiles import AHEAD, whole

PER = 8
"""The weights in a word."""
EXPONENT = "(tl.program_id(1) + 0x4B000000).to(tl.uint32)"
"""The bits of 2**23, as an expression that the compiler does not see to be constant: so it is in a
register, and one instruction of NVIDIA's, which has room for one constant, masks and combines.
"""


@dataclass(frozen=True)
class Words:
    """A matrix stored in words: the ``operand`` that holds them, whether its numbers are
    ``signed``, and the instruction that scales them, by blocks of the depth.
    """

    operand: int
    signed: bool
    scaled: Instruction

    @property
    def block(self) -> int:
        """The indices of the depth that share a scale."""
        return self.scaled.op_as(DequantizeLinear).block

    @property
    def columns(self) -> int:
        """The number of columns of the matrix."""
        return int(self.scaled.shape.dims[-1])

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
        line = w.let(Expr(f"tl.arange(0, {count})[None, :]", frozenset({1})))
        block = w.let(w.let(begin // self.block) + line)
        exponent = w.let(Expr(EXPONENT))
        columns = [Expr(f"({word.text} * {PER} + {n})", word.over) for n in range(PER)]
        granules = [self._granule(reader, block, column) for column in columns]
        tops = [self._top(reader, granule, n) for n, granule in enumerate(granules)]
        sums = [w.variable(f"tl.zeros_like({total.text})", BOTH) for total in totals]
        with w.loop(self.block, 1, ahead=AHEAD) as place:
            deep = w.let(w.let(block * self.block) + place)
            x = row(deep)
            where = w.let(w.let(deep * w.distance(self.columns // PER)) + word)
            found = w.load(self.operand, where, U32, raw=True)
            if self.signed:
                found = w.let(Expr(f"({found.text} ^ 0x88888888)", BOTH))
            halves = found, w.let(Expr(f"({found.text} >> 16)", BOTH))
            for n, (total, top) in enumerate(zip(sums, tops, strict=True)):
                bits = f"({halves[n // 4].text} & {15 << 4 * (n % 4)}) | {exponent.text}"
                w.line(
                    f"{total.text} += {x.text} * (({bits}).to(tl.float32, bitcast=True) - {top})"
                )
        for n, (total, part, granule) in enumerate(zip(totals, sums, granules, strict=True)):
            scale = reader.value(self.scaled.inputs[1], granule[0])
            text = f"{scale.text}.to(tl.float32) * {16.0 ** -(n % 4)}"
            w.line(f"{total.text} += {part.text} * ({text})")

    def _granule(self, reader: Reader, block: Expr, column: Expr) -> list[list[Part]]:
        """The indices of the scale and the zero point of blocks and columns."""
        deep = replace(block, outer=(block, self.block))
        op, parameters = self.scaled.op_as(DequantizeLinear), self.scaled.inputs[1:]
        return [reader.granular(self.scaled, op, p, [deep, column]) for p in parameters]

    def _top(self, reader: Reader, granule: list[list[Part]], number: int) -> str:
        """The offset to subtract from the float of some bits, at one of the eight columns."""
        w, lift = reader.writer, 16 ** (number % 4)
        usual = 8388608.0 + 8 * lift * self.signed
        if len(self.scaled.inputs) < 3:
            return f"{usual}"
        zero = reader.value(self.scaled.inputs[2], granule[1])
        text = f"({zero.text}.to(tl.float32) * {float(lift)} + {usual})"
        return w.let(Expr(text, zero.over)).text


def words_of(reader: Reader, right: Instruction) -> Words | None:
    """How a right operand is stored in words, if it is."""
    value = right
    while isinstance(value.op, (Multibroadcast, Squeeze, Unsqueeze)):
        (source,) = value.inputs
        if source.shape.dims[-2:] != value.shape.dims[-2:]:
            return None
        value = source
    op, shape = value.op, value.shape
    if not isinstance(op, DequantizeLinear) or shape.rank != 2 or op.axis % 2 or not op.block:
        return None
    level = value.inputs[0]
    if not isinstance(level.op, Unpack) or level.op.axis not in (FLAT, 1, -1):
        return None
    packed, stored = level.inputs[0], level.op.stored(level.inputs[0].shape.dtype)
    if packed not in reader.operands or stored.bits != 4 or stored.is_float:
        return None
    number = reader.operands[packed]
    if not is_aligned(reader.at.inputs[number]) or not reader.shape(packed).standard:
        return None
    return Words(number, stored.kind == "int", value) if whole(shape.dims[-1], PER) else None


def joined(writer: Writer, totals: Sequence[Expr]) -> Expr:
    """The given columns interleaved, in order."""
    if len(totals) == 1:
        return totals[0]
    even, odd = (joined(writer, totals[half::2]) for half in (0, 1))
    return writer.let(Expr(f"tl.interleave({even.text}, {odd.text})", even.over))

"""Constant folding, and the law that constants never grow by accident.

The constants a pass folds from a set of sources may take at most the bytes of the sources it frees
plus an allowance, 1 MiB unless the pass states another. What is unpacked from packed storage may
take at most the bytes of packed storage it frees. So no pass can expand compressed weights, nor
hide growth behind bytes freed elsewhere: constants that share a source are counted together, and
apart from all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from migx import op as operations
from migx.argument import Argument
from migx.errors import ConstantGrowth
from migx.ir import Instruction, merged
from migx.ops.builtin import Literal, OnnxExternalWeights, Slot
from migx.program import Program
from migx.shape import I8, U8, Shape

ALLOWANCE = 1 << 20
"""The bytes by which the constants of one set may exceed the sources they free."""

SMALL = 16
"""Shared sources of at most this many bytes do not make constants related."""

MOVED = frozenset({"contiguous", "convert", "dequantizelinear", "mul", "sub"})
"""The operations besides views that only move or scale the elements of unpacked storage."""


@dataclass(eq=False)
class Made:
    """A new constant and the values it is made from, which are compared by identity."""

    shape: Shape
    sources: Sequence[Argument]
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.nbytes = _bytes(self.shape)

    @property
    def unpacks(self) -> bool:
        """Whether it is made from packed storage."""
        return any(s.shape.dtype.is_packed for s in self.sources)

    @property
    def is_made_of_little(self) -> bool:
        """Whether its sources have less than one bit for each of its elements: no storage is that
        dense, so it is computed rather than unpacked.
        """
        bits = 8 * sum(_bytes(s.shape) for s in self.sources)
        return bits < int(self.shape.elements) and not self.unpacks

    def excess(self, gone: Collection[int], allowance: int) -> int:
        """The bytes by which this constant alone breaks the law; ``gone`` has the ids of the
        sources that are freed.
        """
        return Related([self]).excess(gone, allowance)


@dataclass
class Related:
    """Constants that share sources, directly or through others."""

    made: list[Made]

    def excess(self, gone: Collection[int], allowance: int) -> int:
        """The bytes by which these exceed what is allowed; at most 0 if they keep the law."""
        freed = self.freed(gone)
        unpacked = [m.nbytes for m in self.made if m.unpacks]
        packed = sum(_bytes(v.shape) for v in freed if v.shape.dtype.is_packed)
        over = sum(m.nbytes for m in self.made) - sum(_bytes(v.shape) for v in freed) - allowance
        return max(over, sum(unpacked) - packed) if unpacked else over

    def freed(self, gone: Collection[int]) -> list[Argument]:
        """The sources that are freed, each once."""
        sources = {id(s): s for m in self.made for s in m.sources}
        return [s for key, s in sources.items() if key in gone]


def related(made: Sequence[Made]) -> list[Related]:
    """Constants grouped by shared sources; those made of next to nothing form one group."""
    anchors = [[id(s) for s in m.sources if _bytes(s.shape) > SMALL] or [0] for m in made]
    return [Related([made[i] for i in members]) for members in connected(anchors)]


def connected(links: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """The indices of a list, grouped by links they share, directly or through others; each has at
    least one link.
    """
    leader: dict[Hashable, Hashable] = {}

    def find(link: Hashable) -> Hashable:
        while leader.setdefault(link, link) != link:
            leader[link] = leader[leader[link]]
            link = leader[link]
        return link

    for first, *others in links:
        for other in others:
            leader[find(other)] = find(first)
    sets: dict[Hashable, list[int]] = {}
    for place, (first, *_) in enumerate(links):
        sets.setdefault(find(first), []).append(place)
    return list(sets.values())


class Constants:
    """The constants of a program while passes run, and what each new one is made from."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._stand_ins: dict[str, Argument] = {}
        self.start()

    def start(self) -> None:
        """Takes the current constants as those that the next pass starts from."""
        self._held = self._literals()
        self._recorded: dict[int, tuple[Argument, list[Argument]]] = {}

    def fold(self, at: Instruction, value: Argument) -> Instruction:
        """Replaces an instruction that is computed from literals alone by a literal.

        The literal has the origins of everything it replaces, and its sources are recorded.
        """
        whole = tree(at)
        self._recorded[id(value)] = value, self.sources(whole)
        made = at.owner.insert_instruction(
            at, Literal(value), origins=merged(*(i.origins for i in whole))
        )
        return at.owner.replace_instruction(at, made)

    def sources(self, whole: Iterable[Instruction]) -> list[Argument]:
        """The values that a tree is made from; new literals of a pass count as their sources."""
        found: dict[int, Argument] = {}
        for at in whole:
            if (value := self.held(at)) is not None:
                recorded = self._recorded.get(id(value))
                values = [value] if recorded is None else recorded[1]
                found.update((id(v), v) for v in values)
        return list(found.values())

    def made(self, at: Instruction) -> Made:
        """The constant that an instruction would become."""
        return Made(at.shape.as_standard(), self.sources(tree(at)))

    def held(self, at: Instruction) -> Argument | None:
        """The value a source takes memory for: a literal's value, or a stand-in for a deferred
        weight or a slot; None for computed values.
        """
        if isinstance(at.op, Literal):
            return at.op.value
        if type(at.op) is OnnxExternalWeights:
            return self._stand_ins.setdefault(at.op.label, Argument(at.shape))
        if type(at.op) is Slot:
            return self._stand_ins.setdefault(f"@{at.op.slot}", Argument(at.shape))
        return None

    def check(self, pass_name: str, allowance: int) -> None:
        """Raises ``ConstantGrowth`` if a pass has broken the law since the last check."""
        held, now = self._held, self._literals()
        new = [v for key, v in now.items() if key not in held]
        gone = held.keys() - now.keys()
        recorded = {id(v): self._recorded.get(id(v), (v, []))[1] for v in new}
        used = {id(s) for sources in recorded.values() for s in sources}
        vanished = gone - used
        lost = [v for k, v in held.items() if k in vanished and _is_packed_weight(v)]
        made = [Made(v.shape, recorded[id(v)] or _unpacked_from(v, lost)) for v in new]
        self._held, self._recorded = now, {}
        for each in related(made):
            if each.excess(gone, allowance) > 0:
                raise ConstantGrowth(_report(pass_name, each, each.freed(gone), allowance))

    def _literals(self) -> dict[int, Argument]:
        values = (at.op_as(Literal).value for at in self.program.literals)
        return {id(value): value for value in values}


def _inputs(at: Instruction) -> Iterable[Instruction]:
    return at.inputs


def tree(
    at: Instruction, read: Callable[[Instruction], Iterable[Instruction]] = _inputs
) -> list[Instruction]:
    """An instruction and all it is computed from, in topological order; ``read`` tells what one is
    computed from, by default its inputs.
    """
    done: dict[Instruction, None] = {}
    stack = [(at, iter(read(at)))]
    while stack:
        top, rest = stack[-1]
        below = next((v for v in rest if v not in done), None)
        if below is None:
            done[top] = None
            stack.pop()
        else:
            stack.append((below, iter(read(below))))
    return list(done)


def is_unpacked(at: Instruction, known: dict[Instruction, bool] | None = None) -> bool:
    """Whether a value is packed storage, unpacked and then at most scaled and moved.

    ``known`` caches answers between calls.
    """
    return _read_from(at, _unpacks, {} if known is None else known)


def is_stored_narrow(at: Instruction, known: dict[Instruction, bool] | None = None) -> bool:
    """Whether a value is unpacked packed storage, or dequantised eight-bit levels, and then at most
    scaled and moved. Vectors of levels are small, and do not count.

    ``known`` caches answers between calls.
    """
    return _read_from(at, _widens, {} if known is None else known)


def _unpacks(at: Instruction) -> bool:
    return at.op.name.startswith("unpack_")


def _widens(at: Instruction) -> bool:
    if at.op.name == "dequantizelinear":
        levels = at.inputs[0].shape
        return levels.dtype in (I8, U8) and levels.rank > 1
    return _unpacks(at)


def _read_from(
    at: Instruction, reads: Callable[[Instruction], bool], known: dict[Instruction, bool]
) -> bool:
    """Whether some operation ``reads`` a value from storage, then only scaled and moved; ``known``
    caches the answers.
    """
    stack = [at]
    while stack:
        top = stack[-1]
        sources = () if reads(top) else _moved_from(top)
        if unknown := [v for v in sources if v not in known]:
            stack += unknown
        else:
            known[stack.pop()] = reads(top) or any(known[v] for v in sources)
    return known[at]


def _moved_from(at: Instruction) -> Sequence[Instruction]:
    view = operations.traits(at.op).view
    if view is not None:
        return at.inputs[view : view + 1]
    return at.inputs if at.op.name in MOVED else ()


def _is_packed_weight(value: Argument) -> bool:
    return value.shape.dtype.is_packed and _bytes(value.shape) > SMALL


def _unpacked_from(value: Argument, lost: list[Argument]) -> list[Argument]:
    """The packed values that vanished from which one of unknown origin may have been made, judged
    by the number of elements; none for a value that is one number throughout.
    """
    found = [v for v in lost if not v.shape.elements > value.shape.elements]
    return [] if found and _is_one_number(value) else found


def _is_one_number(value: Argument) -> bool:
    array = value.array if value.available and not value.shape.dtype.is_packed else None
    return array is not None and bool((array == array.reshape(-1)[:1]).all())


def _bytes(shape: Shape) -> int:
    return int(shape.nbytes)


def _report(pass_name: str, of: Related, freed: list[Argument], allowance: int) -> str:
    largest = max(of.made, key=lambda m: m.nbytes)
    what = (
        f"{len(of.made)} constants, of {largest.shape.text}"
        if len(of.made) > 1
        else largest.shape.text
    )
    allowed = (
        "packed storage may not take more than the packed storage it frees"
        if any(m.unpacks for m in of.made)
        else f"the pass may add {allowance} bytes to what it frees"
    )
    return (
        f"pass {pass_name} makes {what} of {sum(m.nbytes for m in of.made)} bytes and frees "
        f"{sum(_bytes(v.shape) for v in freed)} bytes of what they were made from: {allowed}"
    )

"""Sorting: a buffer in scratch, of keys and the indices they come from.

A *key* is an unsigned number that is less the sooner its element comes, so that integers and floats
are sorted alike. A few keys are sorted by rank: the keys before each are counted by vectors. Many
are radix sorted byte by byte, skipping bytes in which all are alike. Both are stable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from migx.dim import Extent
from migx.shape import DType
from migx.targets.cpu.emit import I32, I64, Type, Value, reductions
from migx.targets.cpu.kernel import Frame

FEW = 128
"""The number of keys up to which counting ranks is faster than a radix sort."""
BYTE = 8
DIGITS = 1 << BYTE


def key_type(dtype: DType) -> Type:
    """The unsigned type of a key for such elements."""
    return I64 if dtype.bits == 64 else I32


def rising(x: Value, dtype: DType) -> Value:
    """The keys of elements, in their computing type, in ascending order; the two zeros are equal,
    and NaN comes last.
    """
    f, key = x.into, key_type(dtype)
    sign = f.const(key.times(x.type.lanes), 1 << (key.bits - 1))
    if not dtype.is_float:
        found = f.cast(x, key, signed=dtype.kind == "int")
        return found ^ sign if dtype.kind == "int" else found
    bits = f.bitcast(f.select(f.compare("eq", x, 0.0), 0.0, x), sign.type)
    turned = f.op("ashr", bits, key.bits - 1)
    return f.select(f.compare("ne", x, x), -1, bits ^ (turned | sign))


def in_order(x: Value) -> Value:
    """A vector of unsigned numbers in ascending order (a bitonic sort)."""
    f, lanes, size = x.into, x.type.lanes, 2
    while size <= lanes:
        far = size // 2
        while far:
            other = f.shuffle(x, x, [lane ^ far for lane in range(lanes)])
            takes_low = [(lane & far == 0) == (lane & size == 0) for lane in range(lanes)]
            places = [lane if low else lanes + lane for lane, low in enumerate(takes_low)]
            x = f.shuffle(f.intrinsic("umin", x, other), f.intrinsic("umax", x, other), places)
            far //= 2
        size *= 2
    return x


@dataclass
class Buffer:
    """Keys and their indices, with room for ``most`` of them and two vectors of ``lanes``."""

    frame: Frame
    key: Type
    most: Extent
    lanes: int
    keys: Value = field(init=False)
    indices: Value = field(init=False)

    def __post_init__(self) -> None:
        room = (self.most + 2 * self.lanes + 15) // 16 * 16
        self.keys, self._other_keys = (self.frame.take(room, self.key) for _ in range(2))
        self.indices, self._other_indices = (self.frame.take(room, I64) for _ in range(2))
        self._tally = self.frame.take(DIGITS, I64)
        self.f = self.keys.into

    def entered(
        self, begin: Value, end: Value, count: Value, key_of: Callable[[Value], tuple[Value, Value]]
    ) -> Value:
        """Appends the keys of a half-open range of indices; ``key_of`` gives that of an index, and
        whether it enters. Gives the new number of keys.
        """
        f = self.f
        with f.loop(begin, end, carry=[count]) as k:
            (place,) = k.carried
            key, enters = key_of(k.index)
            f.store(key, f.element(self.keys, place, self.key))
            f.store(k.index, f.element(self.indices, place, I64))
            k.carry(place + f.cast(enters, I64, signed=False))
        return k.carried[0]

    def packed(self, first: Value, keys: Value, enters: Value, count: Value) -> Value:
        """Appends those of a vector of keys that enter; their indices begin with ``first``. Gives
        the new number of keys.
        """
        f = self.f
        f.store(f.compress(keys, enters), f.element(self.keys, count, self.key))
        places = f.cast(f.compress(f.iota(keys.type), enters), I64, signed=False) + first
        f.store(places, f.element(self.indices, count, I64))
        return count + f.count_of(enters)

    def index(self, number: Value) -> Value:
        """The index that a key comes from."""
        return self.f.load(self.f.element(self.indices, number, I64), I64)

    def sort(self, count: Value) -> None:
        """Sorts the first keys of the buffer, and their indices with them."""
        f = self.f
        few = f.compare("le", count, FEW)
        with f.when(few):
            self._by_ranks(count)
        with f.unless(few):
            self._by_bytes(count)

    def _by_ranks(self, count: Value) -> None:
        """Moves each key to its rank: the number of keys that are less, or equal and before it
        now.
        """
        f, vector = self.f, self.key.times(self.lanes)
        f.store(f.const(vector, -1), f.element(self.keys, count, self.key))
        with f.loop(0, count) as one:
            key = f.load(f.element(self.keys, one.index, self.key), self.key)
            near = f.splat(f.cast(one.index, self.key), self.lanes)
            with f.loop(0, count, self.lanes, carry=[f.as_index(0)]) as k:
                others = f.load(f.element(self.keys, k.index, self.key), vector)
                places = f.iota(vector) + f.cast(k.index, self.key)
                less = f.compare("lt", others, key, signed=False)
                before = f.compare("eq", others, key) & (places < near)
                k.carry(k.carried[0] + f.count_of(less | before))
            index = self.index(one.index)
            f.store(key, f.element(self._other_keys, k.carried[0], self.key))
            f.store(index, f.element(self._other_indices, k.carried[0], I64))
        self._copied(count)

    def _copied(self, count: Value) -> None:
        """Copies the first keys of the other buffer back, and their indices."""
        f = self.f
        for given, made, type_ in (
            (self._other_keys, self.keys, self.key),
            (self._other_indices, self.indices, I64),
        ):
            with f.loop(0, count, self.lanes) as k:
                many = f.load(f.element(given, k.index, type_), type_.times(self.lanes))
                f.store(many, f.element(made, k.index, type_))

    def _by_bytes(self, count: Value) -> None:
        """Radix sorts by one byte of the keys after another, the lowest first, alternating between
        the two buffers.
        """
        f, differ = self.f, self._differing(count)
        pairs = [self.keys, self.indices, self._other_keys, self._other_indices]
        with f.loop(0, self.key.bits, BYTE, carry=pairs) as byte:
            shift = f.cast(byte.index, self.key)
            matters = f.compare("ne", (differ >> shift) & (DIGITS - 1), 0)
            with f.when(matters, byte.carried) as turn:
                keys, indices, new_keys, new_indices = turn.carried
                self._by_byte(count, shift, *turn.carried)
                turn.carry(new_keys, new_indices, keys, indices)
            byte.carry(*turn.carried)
        with f.when(f.compare("ne", byte.carried[0], self.keys)):
            self._copied(count)

    def _differing(self, count: Value) -> Value:
        """The bits in which keys differ."""
        f, vector = self.f, self.key.times(self.lanes)
        first = f.splat(f.load(self.keys, self.key), self.lanes)
        f.store(first, f.element(self.keys, count, self.key))
        with f.loop(0, count, self.lanes, carry=[f.const(vector, 0)]) as k:
            many = f.load(f.element(self.keys, k.index, self.key), vector)
            k.carry(k.carried[0] | (many ^ first))
        return reductions.fold(f, "or", k.carried[0])

    def _by_byte(
        self,
        count: Value,
        shift: Value,
        keys: Value,
        indices: Value,
        new_keys: Value,
        new_indices: Value,
    ) -> None:
        """Sorts keys and their indices by the byte that begins at a bit."""
        f = self.f
        with f.loop(0, DIGITS) as k:
            f.store(f.as_index(0), f.element(self._tally, k.index, I64))
        with f.loop(0, count) as k:
            _, counter = self._digit(keys, k.index, shift)
            f.store(f.load(counter, I64) + 1, counter)
        with f.loop(0, DIGITS, carry=[f.as_index(0)]) as k:
            counter = f.element(self._tally, k.index, I64)
            many = f.load(counter, I64)
            f.store(k.carried[0], counter)
            k.carry(k.carried[0] + many)
        with f.loop(0, count) as k:
            key, counter = self._digit(keys, k.index, shift)
            place = f.load(counter, I64)
            f.store(place + 1, counter)
            f.store(key, f.element(new_keys, place, self.key))
            index = f.load(f.element(indices, k.index, I64), I64)
            f.store(index, f.element(new_indices, place, I64))

    def _digit(self, keys: Value, index: Value, shift: Value) -> tuple[Value, Value]:
        """A key, and the address of the counter of its digit."""
        f = self.f
        key = f.load(f.element(keys, index, self.key), self.key)
        digit = f.cast((key >> shift) & (DIGITS - 1), I64, signed=False)
        return key, f.element(self._tally, digit, I64)

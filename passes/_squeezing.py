"""The base of passes that store the weights of products in few bits."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar

from migx.builders import Builder
from migx.dim import Dim, product
from migx.errors import FieldError, UnknownName, there_are
from migx.ir import Instruction, merged
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.builtin import Literal
from migx.ops.indexing import Gather
from migx.ops.layout import Multibroadcast, Reshape, Transpose
from migx.ops.linear import Convolution, Dot
from migx.ops.scales import CLIPS
from migx.passes._common import identity
from migx.program import Program
from migx.shape import F16, Dims, DType
from migx.weights import is_source
from migx.weights.constants import ALLOWANCE, is_stored_narrow, tree


@dataclass(frozen=True)
class Weight:
    """A constant operand of a product, or a constant table from which a ``gather`` picks matrices
    for one, or rows.

    ``user`` is the product or the gather; ``value`` is what may be quantised, ``views`` lead from
    it to the operand, in order, and ``whole`` is the operand with all it is computed from. It is
    quantised under ``dims``, along ``axis``, the axis of the reduction.
    """

    user: Instruction
    place: int
    value: Instruction
    views: tuple[Operation, ...]
    dims: Dims
    axis: int
    whole: tuple[Instruction, ...]

    @property
    def form(self) -> tuple[object, ...]:
        """A key that the readers of one stored form share."""
        return self.value, self.dims, self.axis

    @property
    def is_looked_up(self) -> bool:
        """Whether single rows of it are looked up."""
        return type(self.user.op) is Gather and len(self.dims) == 2

    @property
    def sources(self) -> list[Instruction]:
        """The weights it is computed from, without scalars and vectors."""
        return [at for at in self.whole if is_source(at) and at.shape.rank > 1]

    def flat(self, at: Builder) -> Instruction:
        """The value under the dims it is quantised under."""
        same = self.value.shape.dims == self.dims
        return self.value if same else at(Reshape(self.dims), self.value)

    def whole_again(self, at: Builder, made: Instruction) -> Instruction:
        """A result for the flat value, under the value's own dims."""
        dims = self.value.shape.dims
        return made if dims == self.dims else at(Reshape(dims), made)

    @property
    def given(self) -> int:
        """The bytes of the sources."""
        return sum(int(at.shape.nbytes) for at in self.sources)

    @property
    def names(self) -> tuple[str, ...]:
        """The names it goes by: the nodes its product comes from, and its labels."""
        labels = (getattr(at.op, "label", "") for at in self.sources)
        return (*self.user.origins, *filter(None, labels))


class Squeeze(Pass):
    """Stores the weights of dots and convolutions in ``bits`` bits, with a scale for each ``block``
    of neighbours along the reduction.

    No values are read here: a weight becomes instructions that quantise and dequantise it, which
    ``propagate_constant`` folds into levels and scales.
    """

    bits: ClassVar[int]
    most: ClassVar[float]
    """The largest share of its bytes that a weight may take once it is quantised."""
    block: int
    skip: tuple[str, ...] = ()
    clip: str = "minmax"

    def __post_init__(self) -> None:
        if self.clip not in CLIPS:
            raise FieldError(f"pass {self.name}: clip is {' or '.join(CLIPS)}, not {self.clip}")

    @property
    def approximations(self) -> Mapping[str, float]:
        """No bound on products with squeezed weights, nor on rows of tables that are such weights:
        the error depends on their values.
        """
        return {"dot": math.inf, "convolution": math.inf, "gather": math.inf}

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Looks at all modules at once, for several may read one weight."""
        same = Same(program)
        every = _weights(manager, same)
        _check_names(self.skip, every)
        chosen = [w for w in every if not _named(w, self.skip) and self.pays(w)]
        while left := _read_elsewhere(chosen, same) or self._outgrowing(chosen, same):
            chosen = [w for w in chosen if w not in left]
        made: dict[tuple[object, ...], Instruction] = {}

        def squeeze(weight: Weight) -> bool:
            name = "look_up" if weight.is_looked_up else "squeeze"
            return manager.change(self, name, weight.user, partial(self.squeezed, weight, made))

        done = [squeeze(w) for w in chosen]
        return any(done)

    @staticmethod
    def in_floats(program: Program) -> dict[str, int]:
        """The bytes of the weights of products with 16 bits or more per element, by label or ONNX
        node, or by shape if they have neither.
        """
        found: dict[str, int] = {}
        for weight in _weights(PassManager(program), Same(program)):
            shape = weight.value.shape
            counts = shape.static and shape.rank > 1 and not weight.is_looked_up
            if counts and _is_wide(weight.value):
                name = weight.names[-1] if weight.names else shape.text
                found[name] = int(shape.nbytes)
        return found

    def pays(self, weight: Weight) -> bool:
        """Whether a weight is of floats not yet in few bits, and would take few enough bytes."""
        count, depth = weight.value.shape.elements, weight.dims[weight.axis]
        if isinstance(count, Dim) or isinstance(depth, Dim) or not count:
            return False
        if not _is_wide(weight.value):
            return False
        return self.bits_of(weight) <= self.most * 8 * weight.given

    def bits_of(self, weight: Weight) -> int:
        """The bits of a quantised weight."""
        count, depth = int(weight.value.shape.elements), int(weight.dims[weight.axis])
        blocks = count // depth * -(-depth // (self.block or depth))
        return self.bits * count + blocks * self.bits_of_block(weight.value.shape.dtype)

    def _outgrowing(self, chosen: Sequence[Weight], same: Same) -> list[Weight]:
        """The weights that would grow because each way they are read, and each module that reads
        them, has its own stored form: the law of constants refuses to fold those, so every run
        would compute them.
        """
        sources = {w: tuple(map(same.one, w.sources)) for w in chosen}
        taken: dict[tuple[Instruction, ...], dict[Hashable, int]] = {}
        for w, key in sources.items():
            taken.setdefault(key, {})[w.user.module, *w.form] = self.bits_of(w)
        return [w for w in chosen if sum(taken[sources[w]].values()) > 8 * (w.given + ALLOWANCE)]

    def squeezed(
        self, weight: Weight, made: dict[tuple[object, ...], Instruction]
    ) -> list[Instruction]:
        """Replaces a weight by its dequantised value, made once for all readers of one form."""
        user = weight.user
        kept = (user.owner, *weight.form)
        if kept not in made:
            made[kept] = self.dequantized(weight)
        value = made[kept]
        for view in weight.views:
            value = user.owner.insert_instruction(user, view, value, origins=value.origins)
        user.owner.replace_input(user, weight.place, value)
        return [value, user]

    def dequantized(self, weight: Weight) -> Instruction:
        """The weight, quantised and dequantised before its user."""
        origins = merged(*(at.origins for at in weight.whole)) or None
        return self.stored(Builder.before(weight.user, origins), weight)

    def stored(self, at: Builder, weight: Weight) -> Instruction:
        """Adds the instructions that quantise and dequantise a weight."""
        raise NotImplementedError

    def bits_of_block(self, dtype: DType) -> int:
        """The bits of a block besides its levels."""
        return dtype.bits


class Same:
    """The weights and literals of a program, grouped by content: fixed ones by their bits,
    replaceable ones by label.
    """

    def __init__(self, program: Program) -> None:
        found: dict[Hashable, list[Instruction]] = {}
        for at in program.instructions():
            if is_source(at) and at.shape.rank > 1:
                found.setdefault(_held(at), []).append(at)
        self._groups: dict[Instruction, Sequence[Instruction]] = {
            at: group for group in found.values() for at in group
        }

    def first(self, at: Instruction) -> Instruction:
        """The first instruction of the group in the same module; itself if there is no other."""
        return next((v for v in self._groups.get(at, ()) if v.module is at.module), at)

    def one(self, at: Instruction) -> Instruction:
        """The representative of the group."""
        return self._groups.get(at, (at,))[0]

    def readers(self, at: Instruction) -> Iterator[Instruction]:
        """The users of all instructions of the group."""
        return (user for v in self._groups.get(at, (at,)) for user in v.users)


def _held(at: Instruction) -> Hashable:
    """A key, equal for sources of the same content."""
    if isinstance(at.op, Literal) and at.op.replaceable:
        return at.op.label, at.shape
    return identity(at)


def _weights(manager: PassManager, same: Same) -> list[Weight]:
    """The constant operands of products that are not constant themselves, and lookups of rows in
    them, in order.
    """
    found: list[Weight] = []
    for module in manager.modules():
        for at in () if module.bypass else module:
            if type(at.op) in SUMMED:
                found += _operands(at)
            elif (rows := _rows(at, same)) is not None:
                found.append(rows)
    tables = {w.value for w in found if w.is_looked_up}
    found = [_of_table(w, tables, same) for w in found]
    multiplied = {w.form for w in found if not w.is_looked_up}
    return [w for w in found if w.form in multiplied]


def _operands(at: Instruction) -> Iterator[Weight]:
    constant = [v.constant for v in at.inputs]
    for place in SUMMED[type(at.op)]:
        if constant[place] and not all(constant):
            yield _weight(at, place)
        elif type(at.op) is Dot and (picked := _picked(at, place)) is not None:
            yield picked


def _is_wide(value: Instruction) -> bool:
    """Whether a value is of floats of at least 16 bits, and is not stored in fewer."""
    dtype = value.shape.dtype
    return dtype.is_float and dtype.bits >= F16.bits and not is_stored_narrow(value)


SUMMED = {Dot: (0, 1), Convolution: (1,)}
"""The operands that may be weights."""


def _weight(user: Instruction, place: int) -> Weight:
    operand = value = user.inputs[place]
    if type(value.op) is Multibroadcast and len(value.inputs) == 1:
        value = value.inputs[0]
    dims, axis = value.shape.dims, 1
    if type(user.op) is Convolution:
        value, dims = operand, (operand.shape.dims[0], product(operand.shape.dims[1:]))
    else:
        axis = len(dims) - 1 - place
        if axis < 0 or dims[axis] != operand.shape.dims[axis - len(dims)]:
            value, dims, axis = operand, operand.shape.dims, operand.shape.rank - 1 - place
    views = (operand.op,) if value is not operand else ()
    return Weight(user, place, value, views, dims, axis, tuple(tree(operand)))


def _picked(user: Instruction, place: int) -> Weight | None:
    """The constant stack of matrices from which an operand of a dot is picked; None if there is
    none, or it is a table of rows, such as embeddings.
    """
    operand = user.inputs[place]
    axis = operand.shape.rank - 1 - place
    if type(operand.op) is Transpose:
        axis, operand = operand.op.permutation[axis], operand.inputs[0]
    if type(operand.op) is not Gather or not operand.inputs[0].constant:
        return None
    table, indices = operand.inputs
    first, behind = operand.op.axis, operand.op.axis + indices.shape.rank
    if table.shape.rank < 3 or first <= axis < behind or indices.constant:
        return None
    axis = axis if axis < first else axis - indices.shape.rank + 1
    return Weight(operand, 0, table, (), table.shape.dims, axis, tuple(tree(table)))


def _rows(at: Instruction, same: Same) -> Weight | None:
    """The constant table in which rows are looked up, such as embeddings. A product that reads it
    too must sum within a row.
    """
    if type(at.op) is not Gather or at.op.axis or at.inputs[0].shape.rank != 2:
        return None
    constant = [v.constant for v in at.inputs]
    if constant != [True, False]:
        return None
    table = same.first(at.inputs[0])
    return Weight(at, 0, table, (), table.shape.dims, 1, tuple(tree(at.inputs[0])))


def _of_table(weight: Weight, tables: Collection[Instruction], same: Same) -> Weight:
    """A weight in terms of the table that it is, or transposes, if rows of that are looked up."""
    value, views = weight.value, weight.views
    order: tuple[int, ...] = (0, 1)
    if type(value.op) is Transpose:
        order, views = value.op.permutation, (value.op, *views)
        value = value.inputs[0]
    if (value := same.first(value)) not in tables or len(weight.dims) != 2:
        return weight
    return replace(weight, value=value, views=views, dims=value.shape.dims, axis=order[weight.axis])


def _named(weight: Weight, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in weight.names for pattern in patterns)


def _check_names(skip: Sequence[str], weights: Sequence[Weight]) -> None:
    """Raises ``UnknownName`` if a name to skip matches no weight."""
    for pattern in skip:
        if not any(_named(w, (pattern,)) for w in weights):
            known = sorted({name for w in weights for name in w.names})
            raise UnknownName(f"no weight is named {pattern!r}; {there_are(pattern, known)}")


def _read_elsewhere(chosen: Sequence[Weight], same: Same) -> list[Weight]:
    """The weights that would also be kept unquantised because of other readers, and tables in which
    rows are looked up but that no chosen product reads.
    """
    inside = {at for w in chosen for at in (w.user, *w.whole)}
    multiplied = {w.form for w in chosen if not w.is_looked_up}
    return [
        w
        for w in chosen
        if w.form not in multiplied
        or any(at.shape.rank > 1 and not inside.issuperset(same.readers(at)) for at in w.whole)
    ]

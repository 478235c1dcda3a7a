"""Squeezing the weights of products: what passes that store them in few bits have in common."""

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
from migx.weights import is_constant, is_source
from migx.weights.constants import ALLOWANCE, is_stored_narrow, tree


@dataclass(frozen=True)
class Weight:
    """A constant operand of a product, or a constant table of which a ``gather`` picks matrices for
    one, or rows.

    ``user`` is the product, or what picks; ``value`` is what may be quantised, ``views`` what makes
    of it what the product reads, the first first, and ``whole`` all that is computed from. It is
    quantised under ``dims``, along ``axis``, which is what the product sums over.
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
        """What readers have in common of one stored form."""
        return self.value, self.dims, self.axis

    @property
    def is_looked_up(self) -> bool:
        """Whether rows are picked of it, each by itself."""
        return type(self.user.op) is Gather and len(self.dims) == 2

    @property
    def sources(self) -> list[Instruction]:
        """The weights as they are given, numbers and vectors aside."""
        return [at for at in self.whole if is_source(at) and at.shape.rank > 1]

    def flat(self, at: Builder) -> Instruction:
        """The value under the dims it is quantised under."""
        same = self.value.shape.dims == self.dims
        return self.value if same else at(Reshape(self.dims), self.value)

    def whole_again(self, at: Builder, made: Instruction) -> Instruction:
        """What was made of the flat value, under the value's own dims."""
        dims = self.value.shape.dims
        return made if dims == self.dims else at(Reshape(dims), made)

    @property
    def given(self) -> int:
        """The bytes of the weights as they are given."""
        return sum(int(at.shape.nbytes) for at in self.sources)

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called by: the nodes its product comes from, and its label."""
        labels = (getattr(at.op, "label", "") for at in self.sources)
        return (*self.user.origins, *filter(None, labels))


class Squeeze(Pass):
    """Stores the weights of dots and convolutions in ``bits`` bits, with a scale for each ``block``
    of neighbours along what is summed over.

    Nothing is read here: a weight becomes what computes its levels and makes numbers of them again,
    of which ``propagate_constant`` leaves the levels and what they are scaled by.
    """

    bits: ClassVar[int]
    most: ClassVar[float]
    """The part of the bytes it has that a weight may take at most then."""
    block: int
    skip: tuple[str, ...] = ()
    clip: str = "minmax"

    def __post_init__(self) -> None:
        if self.clip not in CLIPS:
            raise FieldError(f"pass {self.name}: clip is {' or '.join(CLIPS)}, not {self.clip}")

    @property
    def approximations(self) -> Mapping[str, float]:
        """A product with squeezed weights may be any, and so may a row of a table that is such a
        weight: how near it is depends on their values.
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
        """The bytes of the weights of products that take 16 bits or more for each element, by label
        or ONNX node. What has no name goes by what it is.
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
        """Whether a weight is of floats, takes few enough bytes then, and is not stored so yet."""
        count, depth = weight.value.shape.elements, weight.dims[weight.axis]
        if isinstance(count, Dim) or isinstance(depth, Dim) or not count:
            return False
        if not _is_wide(weight.value):
            return False
        return self.bits_of(weight) <= self.most * 8 * weight.given

    def bits_of(self, weight: Weight) -> int:
        """What a weight takes then."""
        count, depth = int(weight.value.shape.elements), int(weight.dims[weight.axis])
        blocks = count // depth * -(-depth // (self.block or depth))
        return self.bits * count + blocks * self.bits_of_block(weight.value.shape.dtype)

    def _outgrowing(self, chosen: Sequence[Weight], same: Same) -> list[Weight]:
        """The weights that would take more than they do, for they are read in so many ways, or in
        so many modules, each of which has its own: the law of constants refuses to fold that, so
        every run would do it.
        """
        sources = {w: tuple(map(same.one, w.sources)) for w in chosen}
        taken: dict[tuple[Instruction, ...], dict[Hashable, int]] = {}
        for w, key in sources.items():
            taken.setdefault(key, {})[w.user.module, *w.form] = self.bits_of(w)
        return [w for w in chosen if sum(taken[sources[w]].values()) > 8 * (w.given + ALLOWANCE)]

    def squeezed(
        self, weight: Weight, made: dict[tuple[object, ...], Instruction]
    ) -> list[Instruction]:
        """Puts the dequantised value in the place of a weight; made once for all that read one
        weight alike.
        """
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
        """The weight as levels and back, before the product that reads it."""
        origins = merged(*(at.origins for at in weight.whole)) or None
        return self.stored(Builder.before(weight.user, origins), weight)

    def stored(self, at: Builder, weight: Weight) -> Instruction:
        """What makes levels of a weight, and numbers of them."""
        raise NotImplementedError

    def bits_of_block(self, dtype: DType) -> int:
        """What a block takes beside its levels."""
        return dtype.bits


class Same:
    """The weights and literals of a program that hold the same: fixed ones the same bits, others
    what is put in by one name.
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
        """The first in its module that holds what an instruction does, itself unless there is
        another.
        """
        return next((v for v in self._groups.get(at, ()) if v.module is at.module), at)

    def one(self, at: Instruction) -> Instruction:
        """One and the same of all that hold the same."""
        return self._groups.get(at, (at,))[0]

    def readers(self, at: Instruction) -> Iterator[Instruction]:
        """What reads an instruction, or another that holds the same."""
        return (user for v in self._groups.get(at, (at,)) for user in v.users)


def _held(at: Instruction) -> Hashable:
    """Equal for sources that hold the same."""
    if isinstance(at.op, Literal) and at.op.replaceable:
        return at.op.label, at.shape
    return identity(at)


def _weights(manager: PassManager, same: Same) -> list[Weight]:
    """The constant operands of products that are not constant themselves, and the rows that are
    looked up in them, in order.
    """
    known: dict[Instruction, bool] = {}
    found: list[Weight] = []
    for module in manager.modules():
        for at in () if module.bypass else module:
            if type(at.op) in SUMMED:
                found += _operands(at, known)
            elif (rows := _rows(at, known, same)) is not None:
                found.append(rows)
    tables = {w.value for w in found if w.is_looked_up}
    found = [_of_table(w, tables, same) for w in found]
    multiplied = {w.form for w in found if not w.is_looked_up}
    return [w for w in found if w.form in multiplied]


def _operands(at: Instruction, known: dict[Instruction, bool]) -> Iterator[Weight]:
    constant = [is_constant(v, known) for v in at.inputs]
    for place in SUMMED[type(at.op)]:
        if constant[place] and not all(constant):
            yield _weight(at, place)
        elif type(at.op) is Dot and (picked := _picked(at, place, known)) is not None:
            yield picked


def _is_wide(value: Instruction) -> bool:
    """Whether a value is of floats, and is not stored in fewer bits than a half takes."""
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


def _picked(user: Instruction, place: int, known: dict[Instruction, bool]) -> Weight | None:
    """The matrices that an operand of a dot is picked from, if they are constant. A table of rows,
    such as embeddings, has none.
    """
    operand = user.inputs[place]
    axis = operand.shape.rank - 1 - place
    if type(operand.op) is Transpose:
        axis, operand = operand.op.permutation[axis], operand.inputs[0]
    if type(operand.op) is not Gather or not is_constant(operand.inputs[0], known):
        return None
    table, indices = operand.inputs
    first, behind = operand.op.axis, operand.op.axis + indices.shape.rank
    if table.shape.rank < 3 or first <= axis < behind or is_constant(indices, known):
        return None
    axis = axis if axis < first else axis - indices.shape.rank + 1
    return Weight(operand, 0, table, (), table.shape.dims, axis, tuple(tree(table)))


def _rows(at: Instruction, known: dict[Instruction, bool], same: Same) -> Weight | None:
    """The constant table that rows are picked from, such as embeddings. What is summed lies within
    a row where it is multiplied by as well.
    """
    if type(at.op) is not Gather or at.op.axis or at.inputs[0].shape.rank != 2:
        return None
    constant = [is_constant(v, known) for v in at.inputs]
    if constant != [True, False]:
        return None
    table = same.first(at.inputs[0])
    return Weight(at, 0, table, (), table.shape.dims, 1, tuple(tree(at.inputs[0])))


def _of_table(weight: Weight, tables: Collection[Instruction], same: Same) -> Weight:
    """A weight as the table it is, or the transposed of, where rows of that are looked up."""
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
    """Raises ``UnknownName`` where one that is to be skipped is not there."""
    for pattern in skip:
        if not any(_named(w, (pattern,)) for w in weights):
            known = sorted({name for w in weights for name in w.names})
            raise UnknownName(f"no weight is named {pattern!r}; {there_are(pattern, known)}")


def _read_elsewhere(chosen: Sequence[Weight], same: Same) -> list[Weight]:
    """The weights that would be kept as they are as well, for something else reads them, and the
    tables of which nothing else is left than that rows are looked up.
    """
    inside = {at for w in chosen for at in (w.user, *w.whole)}
    multiplied = {w.form for w in chosen if not w.is_looked_up}
    return [
        w
        for w in chosen
        if w.form not in multiplied
        or any(at.shape.rank > 1 and not inside.issuperset(same.readers(at)) for at in w.whole)
    ]

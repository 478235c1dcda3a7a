"""Squeezing the weights of products: what passes that store them in few bits have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar, Protocol

from migx.dim import Dim, product
from migx.errors import UnknownName, there_are
from migx.ir import Instruction, merged
from migx.manager import Pass, PassManager
from migx.op import Operation
from migx.ops.indexing import Gather
from migx.ops.layout import Multibroadcast, Reshape, Transpose
from migx.ops.linear import Convolution, Dot
from migx.program import Program
from migx.shape import F16, Dims, DType
from migx.weights import is_constant, is_source
from migx.weights.constants import is_stored_narrow, tree


@dataclass(frozen=True)
class Weight:
    """A constant operand of a product, or constant matrices of which some are picked for one.

    ``user`` is the product, or what picks; ``value`` is what may be quantised, ``spread`` the
    broadcast of it that the product reads, if there is one, and ``whole`` all that is computed
    from. It is quantised under ``dims``, along ``axis``, which is what the product sums over.
    """

    user: Instruction
    place: int
    value: Instruction
    spread: Operation | None
    dims: Dims
    axis: int
    whole: tuple[Instruction, ...]

    @property
    def sources(self) -> list[Instruction]:
        """The weights as they are given, numbers and vectors aside."""
        return [at for at in self.whole if is_source(at) and at.shape.rank > 1]

    def flat(self, at: Make) -> Instruction:
        """The value under the dims it is quantised under."""
        same = self.value.shape.dims == self.dims
        return self.value if same else at(Reshape(self.dims), self.value)

    def whole_again(self, at: Make, made: Instruction) -> Instruction:
        """What was made of the flat value, under the value's own dims."""
        dims = self.value.shape.dims
        return made if dims == self.dims else at(Reshape(dims), made)

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called by: the nodes its product comes from, and its label."""
        labels = (getattr(at.op, "label", "") for at in self.sources)
        return (*self.user.origins, *filter(None, labels))


class Make(Protocol):
    """Makes an instruction of an operation and its inputs, before a product."""

    def __call__(self, op: Operation, *inputs: Instruction) -> Instruction: ...


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

    @property
    def approximations(self) -> Mapping[str, float]:
        """A product with squeezed weights may be any: how near it is depends on their values."""
        return {"dot": math.inf, "convolution": math.inf}

    def apply_program(self, program: Program, manager: PassManager) -> bool:
        """Looks at all modules at once, for several may read one weight."""
        every = list(_weights(manager))
        _check_names(self.skip, every)
        chosen = [w for w in every if not _named(w, self.skip) and self.pays(w)]
        while shared := _read_elsewhere(chosen):
            chosen = [w for w in chosen if w not in shared]
        made: dict[tuple[object, ...], Instruction] = {}
        done = [
            manager.change(self, "squeeze", w.user, partial(self.squeezed, w, made)) for w in chosen
        ]
        return any(done)

    def pays(self, weight: Weight) -> bool:
        """Whether a weight is of floats, takes few enough bytes then, and is not stored so yet."""
        count, depth = weight.value.shape.elements, weight.dims[weight.axis]
        dtype = weight.value.shape.dtype
        if isinstance(count, Dim) or isinstance(depth, Dim) or not count:
            return False
        if not dtype.is_float or dtype.bits < F16.bits:
            return False
        blocks = count // depth * -(-depth // (self.block or depth))
        bits = self.bits * count + blocks * self.bits_of_block(dtype)
        given = sum(8 * int(at.shape.nbytes) for at in weight.sources)
        return bits <= self.most * given and not is_stored_narrow(weight.value)

    def squeezed(
        self, weight: Weight, made: dict[tuple[object, ...], Instruction]
    ) -> list[Instruction]:
        """Puts the dequantised value in the place of a weight; made once for all that read one
        weight alike.
        """
        user = weight.user
        assert user.module is not None
        kept = (user.module, weight.value, weight.dims, weight.axis)
        if kept not in made:
            made[kept] = self.dequantized(weight)
        value = made[kept]
        if weight.spread is not None:
            value = user.module.insert_instruction(
                user, weight.spread, value, origins=value.origins
            )
        user.module.replace_input(user, weight.place, value)
        return [value, user]

    def dequantized(self, weight: Weight) -> Instruction:
        """The weight as levels and back, before the product that reads it."""
        module, user = weight.user.module, weight.user
        assert module is not None
        origins = merged(*(at.origins for at in weight.whole)) or user.origins

        def at(op: Operation, *inputs: Instruction) -> Instruction:
            return module.insert_instruction(user, op, *inputs, origins=origins)

        return self.stored(at, weight)

    def stored(self, at: Make, weight: Weight) -> Instruction:
        """What makes levels of a weight, and numbers of them."""
        raise NotImplementedError

    def bits_of_block(self, dtype: DType) -> int:
        """What a block takes beside its levels."""
        return dtype.bits


def _weights(manager: PassManager) -> Iterator[Weight]:
    """The constant operands of products that are not constant themselves, in order."""
    known: dict[Instruction, bool] = {}
    for module in manager.modules():
        products = [] if module.bypass else [at for at in module if type(at.op) in SUMMED]
        for at in products:
            constant = [is_constant(v, known) for v in at.inputs]
            for place in SUMMED[type(at.op)]:
                if constant[place] and not all(constant):
                    yield _weight(at, place)
                elif type(at.op) is Dot and (picked := _picked(at, place, known)) is not None:
                    yield picked


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
    spread = operand.op if value is not operand else None
    return Weight(user, place, value, spread, dims, axis, tuple(tree(operand)))


def _picked(user: Instruction, place: int, known: dict[Instruction, bool]) -> Weight | None:
    """The matrices that an operand of a dot is picked from, if they are constant. A table of rows,
    such as embeddings, is none.
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
    return Weight(operand, 0, table, None, table.shape.dims, axis, tuple(tree(table)))


def _named(weight: Weight, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in weight.names for pattern in patterns)


def _check_names(skip: Sequence[str], weights: Sequence[Weight]) -> None:
    """Raises ``UnknownName`` where one that is to be skipped is not there."""
    for pattern in skip:
        if not any(_named(w, (pattern,)) for w in weights):
            known = sorted({name for w in weights for name in w.names})
            raise UnknownName(f"no weight is named {pattern!r}; {there_are(pattern, known)}")


def _read_elsewhere(chosen: Sequence[Weight]) -> list[Weight]:
    """The weights that would be kept as they are as well, for something else reads them."""
    inside = {at for w in chosen for at in (w.user, *w.whole)}
    return [
        w
        for w in chosen
        if any(at.shape.rank > 1 and not inside.issuperset(at.users) for at in w.whole)
    ]

"""Which tensors of a checkpoint the weights of a program are, found by their values: exporters
rename weights, and transpose matrices.

naming = Naming.by_value(program, "base.safetensors")  # the numbers that the model was made from
with program.update_weights() as new:
    new.update(naming.of("tuned.safetensors"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from migx.argument import Argument
from migx.errors import DataWarning, WeightError, counted, first_few, warn
from migx.op import Array
from migx.ops.builtin import Literal, OnnxExternalWeights
from migx.program import Program
from migx.shape import Shape
from migx.weights.sources import everything

SAMPLE = 16
"""How many elements at either end are compared first."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint that is a weight, as it is or transposed."""

    name: str
    transposed: bool = False

    def __str__(self) -> str:
        return f"{self.name}, transposed" if self.transposed else self.name

    def read(self, held: Mapping[str, Any], shape: Shape) -> Argument:
        """The tensor as the weight of a shape; its type stays that of the checkpoint."""
        array = Argument.of(held[self.name]).array
        given = array.T if self.transposed else array
        if given.size != int(shape.elements):
            raise WeightError(f"{self.name!r} has dims {array.shape}, which do not fit {shape}")
        return Argument.of(given.reshape([int(d) for d in shape.dims]))


@dataclass(frozen=True)
class Naming:
    """The tensors that each weight may be, by the weight's name: more than one if they are equal.
    ``shapes`` are those of these weights, and ``unknown`` names the weights that no tensor is:
    constants of the exporter, and weights that it made of several tensors.
    """

    tensors: Mapping[str, tuple[Tensor, ...]]
    shapes: Mapping[str, Shape]
    unknown: tuple[str, ...] = ()

    @classmethod
    def by_value(cls, program: Program, checkpoint: Any) -> Naming:
        """Finds the tensor of each named float weight with several elements in a checkpoint, as
        ``Update.update`` takes it, but no folder: one with the program's own values, perhaps in a
        wider type. ``WeightError`` if the weights have no values yet, or none is found; a
        ``DataWarning`` names those that are not.
        """
        held = {name: Argument.of(value) for name, value in everything(checkpoint).items()}
        sizes: dict[int, list[str]] = {}
        for name, value in held.items():
            if value.shape.dtype.is_tensor and not value.shape.dtype.is_packed:
                sizes.setdefault(value.array.size, []).append(name)
        shapes, found = dict[str, Shape](), dict[str, tuple[Tensor, ...]]()
        for name, value in _weights(program):
            alike = {n: held[n].array for n in sizes.get(value.array.size, ())}
            shapes[name] = value.shape
            found[name] = tuple(_alike(value.array, alike))
        if not any(found.values()):
            raise WeightError(
                f"{_told(checkpoint)} has none of the {counted(len(found), 'weight')} of the "
                "program, by value: give the checkpoint that the model was exported from"
            )
        known = {name: tensors for name, tensors in found.items() if tensors}
        lost = tuple(name for name, tensors in found.items() if not tensors)
        if lost:
            warn(
                f"no tensor of {_told(checkpoint)} is {counted(len(lost), 'weight')}, "
                f"{first_few(lost, 5)}: constants of the exporter, or made of several tensors",
                DataWarning,
            )
        return cls(known, {name: shapes[name] for name in known}, lost)

    def of(self, checkpoint: Any) -> dict[str, Argument]:
        """The weights by their names in the program, from a checkpoint with the same names as the
        one they were found in, such as that of a model trained further. ``WeightError`` if a tensor
        is missing, or if tensors differ that were equal where the names were found.
        """
        held = everything(checkpoint)
        wanted = {each.name for tensors in self.tensors.values() for each in tensors}
        if missing := [name for name in sorted(wanted) if name not in held]:
            lacks = f"{counted(len(missing), 'tensor')}: {first_few(missing, 5)}"
            raise WeightError(f"{_told(checkpoint)} lacks {lacks}")
        return {name: self._one(name, held) for name in self.tensors}

    def _one(self, name: str, held: Mapping[str, Any]) -> Argument:
        """The value of one weight: of the tensor of its own name, if there is one, or else what all
        that it may be agree on.
        """
        shape, tensors = self.shapes[name], self.tensors[name]
        own = [each for each in tensors if each.name == name]
        first, *rest = own[:1] or tensors
        value = first.read(held, shape)
        array = _in_type(value.array, shape.dtype.numpy)
        if not all(_same(array, each.read(held, shape).array) for each in rest):
            raise WeightError(
                f"weight {name!r} may be {first_few([str(t) for t in tensors], 5)}: these were "
                "equal where names were found, and are not here; give it by its name in the program"
            )
        return value


def _told(checkpoint: Any) -> str:
    return "the checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)


def _weights(program: Program) -> Iterator[tuple[str, Argument]]:
    """The named float literals of several elements, each name once."""
    seen: set[str] = set()
    for at in program.instructions():
        if type(at.op) is OnnxExternalWeights:
            raise WeightError(
                f"weight {at.op.label!r} has no value yet, by which its name could be found: find "
                "names in the model read with its weights; they are the same for one without"
            )
        if type(at.op) is not Literal or not at.op.label or at.op.label in seen:
            continue
        dtype, value = at.shape.dtype, at.op.value
        if dtype.is_float and not dtype.is_packed and value.array.size > 1:
            seen.add(at.op.label)
            yield at.op.label, value


def _alike(weight: Array, tensors: Mapping[str, Array]) -> Iterator[Tensor]:
    """The tensors of as many elements that are a weight, as they are, transposed, or both; those of
    other types if they are once converted.
    """
    for name, tensor in tensors.items():
        if _same(weight, tensor):
            yield Tensor(name)
        turned = tensor.shape == weight.shape[::-1]
        if tensor.ndim == 2 and 1 not in tensor.shape and turned and _same(weight, tensor.T):
            yield Tensor(name, transposed=True)


def _same(weight: Array, tensor: Array) -> bool:
    """Whether two arrays have the same elements in the same order, once the other has the type of
    the weight; NaN is equal to NaN. A few at their ends are compared first.
    """
    for part in (slice(SAMPLE), slice(-SAMPLE, None), slice(None)):
        given = _in_type(tensor.flat[part], weight.dtype)
        if not np.array_equal(weight.flat[part], given, equal_nan=True):
            return False
    return True


def _in_type(array: Array, dtype: np.dtype[Any]) -> Array:
    """An array in another type, in which large numbers may be infinite."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)

"""Random tensors. The same seed gives the same values, on every run and every machine."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from migx.dim import Extent
from migx.errors import ShapeError
from migx.op import Array, Modules, Op, Shapes, Traits
from migx.ops._rules import expect, no_warnings
from migx.shape import BOOL, F32, F64, DType, Shape

Drawn: TypeAlias = np.float32 | np.float64


class Random(Op, abstract=True):
    """No input; values drawn from ``seed`` by Philox, a counter-based generator.

    Types under 32 bits are drawn in f32 and rounded. Never folded: the tensor is larger than its
    description.
    """

    traits = Traits(foldable=False)
    seed: int
    dims: tuple[Extent, ...]
    to: DType = F32

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 0)
        if not self.to.is_float or self.to.is_packed:
            raise ShapeError(f"{self.name} makes floats of 8 bits or more, not {self.to}")
        if self.seed < 0:
            raise ShapeError(f"{self.name} needs a seed of 0 or more, got {self.seed}")
        return Shape(self.to, self.dims)

    def compute(self) -> Array:
        generator = np.random.Generator(np.random.Philox(self.seed))
        with no_warnings():
            values = self.draw(generator, np.float64 if self.to is F64 else np.float32)
            return values.astype(self.to.numpy, copy=False)

    def draw(self, generator: np.random.Generator, dtype: type[Drawn]) -> Array:
        """The values in f32 or f64, from a fresh generator."""
        raise NotImplementedError(self.name)


class RandomUniform(Random):
    """Uniform in [low, high); ONNX RandomUniform. Rounding may reach ``high``."""

    low: float = 0.0
    high: float = 1.0

    def draw(self, generator: np.random.Generator, dtype: type[Drawn]) -> Array:
        values = generator.random(self.dims, dtype)
        values *= dtype(self.high - self.low)
        values += dtype(self.low)
        return values


class RandomNormal(Random):
    """Normal of the given ``mean`` and standard deviation ``scale``; ONNX RandomNormal."""

    mean: float = 0.0
    scale: float = 1.0

    def draw(self, generator: np.random.Generator, dtype: type[Drawn]) -> Array:
        values = generator.standard_normal(self.dims, dtype)
        values *= dtype(self.scale)
        values += dtype(self.mean)
        return values


class DropoutMask(Op):
    """A bool for each element of the first input: False with the probability of the second, a float
    scalar.

    Drawn by the Mersenne Twister as numpy seeds it, the generator of ONNX's own cases (Dropout-13).
    """

    traits = Traits(foldable=False)
    seed: int

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 2)
        if not shapes[1].dtype.is_float or shapes[1].rank:
            raise ShapeError(f"{self.name} takes a ratio of rank 0, got {shapes[1].text}")
        return shapes[0].with_type(BOOL)

    def compute(self, x: Array, ratio: Array) -> Array:
        generator = np.random.RandomState(self.seed)
        return np.asarray(generator.random_sample(x.shape) >= ratio)

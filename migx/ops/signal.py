"""Operations on signals and their spectra. Complex numbers are a last axis of two."""

from __future__ import annotations

import math

import numpy as np

from migx.dim import Extent, may_equal
from migx.errors import EvaluationError, ShapeError
from migx.op import Array, Modules, Op, Shapes
from migx.ops._numeric import FLOAT, NUMBER, expect_kind
from migx.ops._rules import expect, expect_axis, expect_single, no_warnings, rounded, wide
from migx.shape import F32, DType, Shape


class Dft(Op):
    """The discrete Fourier transform along ``axis`` of [..., 1] or [..., 2]: real or complex.

    The axis is truncated or zero-padded to ``length`` elements; if that is known only at run time,
    it is a second input. ``onesided`` leaves out what the symmetry of a real signal makes
    redundant: of the result, or with ``inverse`` of the input, and then the result is [..., 1].
    ONNX DFT-20.
    """

    axis: int
    length: Extent
    inverse: bool = False
    onesided: bool = False

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 1, 2)
        x = shapes[0]
        expect_kind(self, x.dtype, FLOAT)
        expect_axis(self, self.axis, x.rank - 1)
        if not (may_equal(x.dims[-1], 1) or may_equal(x.dims[-1], 2)):
            raise ShapeError(f"{self.name} needs [..., 1] or [..., 2], got {x.text}")
        expect_single(self, "a length", shapes[1:])
        half = self.onesided and not self.inverse
        dims: list[Extent] = list(x.dims)
        dims[self.axis] = self.length // 2 + 1 if half else self.length
        dims[-1] = 1 if self.onesided and self.inverse else 2
        return Shape(x.dtype, dims)

    def compute(self, x: Array, length: Array | None = None) -> Array:
        count = int(self.length) if length is None else int(length.item())
        if count < 1:
            raise EvaluationError(f"{self.name}: a transform has 1 element or more, not {count}")
        is_real = x.shape[-1] == 1
        data = wide(x)[..., 0] if is_real else _complex(wide(x))
        with no_warnings():
            if self.onesided and self.inverse:
                return rounded(np.fft.irfft(data, count, self.axis)[..., None], x)
            if self.onesided and is_real:
                return rounded(_pairs(np.fft.rfft(data, count, self.axis)), x)
            result = (np.fft.ifft if self.inverse else np.fft.fft)(data, count, self.axis)
        if self.onesided:
            result = result[(slice(None),) * self.axis + (slice(count // 2 + 1),)]
        return rounded(_pairs(result), x)


def _complex(pairs: Array) -> Array:
    """Pairs of real and imaginary parts as complex numbers."""
    dtype = np.result_type(pairs.dtype, np.complex64)
    numbers: Array = np.ascontiguousarray(pairs).view(dtype)[..., 0]
    return numbers


def _pairs(numbers: Array) -> Array:
    """Complex numbers as pairs of their real and imaginary parts."""
    parts: Array = np.ascontiguousarray(numbers)[..., None].view(numbers.real.dtype)
    return parts


class MelWeightMatrix(Op):
    """The share of each spectrogram bin in each mel band: [bins, bands]. ONNX MelWeightMatrix-17.

    Inputs, of one element each: the number of bands, the length of the transform, the sample rate,
    and the lower and upper edge in hertz. ``dims`` are those of the result.
    """

    dims: tuple[Extent, Extent]
    to: DType = F32

    def compute_shape(self, shapes: Shapes, modules: Modules = ()) -> Shape:
        expect(self, shapes, 5)
        for shape in shapes:
            expect_kind(self, shape.dtype, NUMBER)
        expect_single(self, "inputs", shapes)
        expect_kind(self, self.to, NUMBER)
        return Shape(self.to, self.dims)

    def compute(self, bands: Array, length: Array, rate: Array, low: Array, high: Array) -> Array:
        count, size = int(bands.item()), int(length.item())
        if min(count, size) < 0 or min(low.item(), high.item()) <= -700:
            raise EvaluationError(
                f"{self.name}: {count} bands from {low.item()} to {high.item()} hertz of a "
                f"transform of {size} elements"
            )
        first, last = (_mel(float(edge.item())) for edge in (low, high))
        # As in ONNX the bands end one step before the upper edge.
        mels = np.arange(count + 2) * ((last - first) / (count + 2)) + first
        hertz = 700 * (np.power(10, mels / 2595) - 1)
        edges = ((size + 1) * hertz // float(rate.item())).astype(np.int64)
        result = np.zeros((size // 2 + 1, count))
        bins = np.arange(size // 2 + 1)
        for band, (lower, centre, upper) in enumerate(
            zip(edges, edges[1:], edges[2:], strict=False)
        ):
            rise, fall = centre - lower, upper - centre
            rising = (bins - lower) / rise if rise else (bins == centre) * 1.0
            falling = (upper - bins) / fall if fall else bins * 0.0
            up, down = (bins >= lower) & (bins <= centre), (bins >= centre) & (bins < upper)
            result[:, band] = np.where(down & (fall > 0), falling, np.where(up, rising, 0))
        return result.astype(self.to.numpy)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)

"""The numbers of floats of eight bits, for tests of every target."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from migx.shape import DType

CODES = np.arange(256, dtype=np.uint8)


def codes(name: str) -> np.ndarray:
    """Every element of a type."""
    return CODES.view(DType.of(name).numpy)


def edges(name: str, made: Any = np.float32) -> np.ndarray:
    """Every number of a type, those half-way between two, and what is just beside these; and what
    is too large, infinite or none.
    """
    numbers = np.sort(codes(name).astype(made))
    numbers = numbers[np.isfinite(numbers)]
    halves = (numbers[1:] + numbers[:-1]) / 2
    beside = [np.nextafter(halves, made(s * np.inf)) for s in (-1, 1)]
    largest = float(ml_dtypes.finfo(DType.of(name).numpy).max)  # type: ignore[no-untyped-call]
    far = [*(largest * np.array([1.01, 1.04, 1.07, 1.2, 3.9, 1e6])), 3e38, np.inf]
    rest = np.array([0, -0.0, 1e-45, -1e-40, 1e-12, np.nan], made)
    return np.concatenate([numbers, halves, *beside, far, np.negative(far), rest]).astype(made)

"""Quotients and remainders of native code: bit for bit what ``ref`` gives."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from numpy.typing import NDArray

import migx
from migx.shape import DType
from migx.targets.cpu.kernels.fused import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, produced

FLOATS = ("f16", "f32", "f64")
INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
COUNT = 2001


def text_of(name: str, dtype: str) -> str:
    return f"module main(x: {dtype}[n], y: {dtype}[n]) {{\n  %0 = {name}(x, y)\n  return %0\n}}\n"


def integers(dtype: DType, rng: np.random.Generator) -> list[NDArray[np.generic]]:
    """Pairs: all there are of special ones, any, and any over small ones."""
    info = np.iinfo(dtype.numpy)
    special = {info.min, info.min + 1, info.max // 2, info.max - 1, info.max, *range(8)}
    if info.min < 0:
        special |= {-1, -2, -3, -7}
    pairs = np.array(list(itertools.product(special, special)), dtype.numpy)
    anything = rng.integers(info.min, info.max, (COUNT, 2), dtype.numpy, endpoint=True)
    small = anything.copy()
    small[:, 1] = rng.integers(1, 9, COUNT)
    return [pairs, anything, small]


def floats(dtype: DType, rng: np.random.Generator) -> list[NDArray[np.generic]]:
    """Pairs: all there are of special ones, any, whole ones, and whole multiples and neighbours."""
    info = np.finfo(dtype.numpy)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.smallest_subnormal]
    special += [float(info.tiny), 1.0, -1.0, 3.0, 0.1, 2.5, 1e3, 7.0]
    pairs = np.array(list(itertools.product(special, special)), dtype.numpy)
    most = np.log2(float(info.max))
    sizes = np.exp2(rng.uniform(-most, most, (COUNT, 2)))
    anything = (sizes * rng.choice([-1, 1], sizes.shape)).astype(dtype.numpy)
    whole = rng.integers(-99, 99, (COUNT, 2)).astype(dtype.numpy)
    by = rng.normal(0, 1, COUNT).astype(dtype.numpy)
    times = (by * rng.integers(1, 1 << 20, COUNT)).astype(dtype.numpy)
    aside = np.nextafter(times, rng.choice([-np.inf, np.inf], COUNT).astype(dtype.numpy))
    return [pairs, anything, whole, *(np.stack([v, by], 1) for v in (times, aside))]


@pytest.mark.parametrize(
    ("name", "type_name"),
    [
        *itertools.product(("fmod", "mod"), (*FLOATS, *INTEGERS)),
        *itertools.product(("div",), INTEGERS),
    ],
)
def test_divided_as_ref_does(name: str, type_name: str) -> None:
    dtype, rng = DType.of(type_name), np.random.default_rng(3)
    with np.errstate(all="ignore"):
        given = np.concatenate((floats if dtype.is_float else integers)(dtype, rng))
    inputs = {"x": given[:, 0].copy(), "y": given[:, 1].copy()}
    text = text_of(name, type_name)
    ref, cpu = (migx.parse(text).compile(t).eval(inputs)[0] for t in ("ref", "cpu"))
    bits = np.dtype(f"u{dtype.bits // 8}")
    same = (ref.view(bits) == cpu.view(bits)) | ((ref != ref) & (cpu != cpu))
    assert not given[~same].tolist()


@pytest.mark.parametrize("name", ["fmod", "mod", "div"])
@pytest.mark.parametrize("dtype", ["i8", "u16", "i32", "u32"])
def test_narrow_integers_are_divided_by_vectors(name: str, dtype: str) -> None:
    kernel = kernel_for(produced(parsed(text_of(name, dtype), "fuse_pointwise")), host())
    assert kernel is not None
    assert "fdiv <" in kernel.text
    assert not re.findall(r"= [su](?:div|rem) <.*", kernel.text)

"""Index maps: what a chain of views reads, element by element."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from migx.dim import Dim, Extent
from migx.fusion.index_map import Factor, IndexMap
from migx.op import Operation
from migx.ops.layout import (
    Contiguous,
    Multibroadcast,
    Reshape,
    Reverse,
    Slice,
    Squeeze,
    Step,
    Transpose,
    Unsqueeze,
)
from migx.ops.pointwise import Relu
from tests.core.views import Sizes, chains

n, m = Dim("n"), Dim("m")


def along(dims: tuple[Extent, ...], *ops: Operation) -> IndexMap | None:
    index = IndexMap.identity(dims)
    for op in ops:
        index = None if index is None else index.then(op)
    return index


def places(index: IndexMap) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each element of the result lies in the row-major source, from the factors alone."""
    extents = [math.prod(int(d) for d in group) for group in index.groups]
    sizes = [math.prod(extents[i + 1 :]) for i in range(len(extents))]
    flat = np.array(sum(int(s) * size for s, size in zip(index.starts, sizes, strict=True)))
    for axis in index.axes:
        for f in axis:
            step = 0 if f.repeats else int(f.stride) * sizes[f.axis]
            flat = flat[..., None] + np.arange(int(f.extent)) * step
    return flat.reshape([int(d) for d in index.dims])


@given(chains())
def test_a_map_reads_what_the_chain_reads(chain: tuple[Sizes, list[Operation]]) -> None:
    dims, ops = chain
    index = IndexMap.identity(dims)
    x: Any = np.arange(math.prod(dims)).reshape(dims)
    for op in ops:
        index = None if index is None else index.then(op)
        if index is None:
            break
        x = op.compute(x)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(places(index), x)


SAME: Iterable[tuple[tuple[Extent, ...], list[Operation], list[Operation]]] = [
    ((6,), [Reshape((2, 3)), Transpose((0, 1)), Reshape((6,))], []),
    ((n, 12), [Reshape((n, 3, 4)), Reshape((3 * n, 4)), Reshape((n, 12))], []),
    ((n, m, 12), [Reshape((n * m, 12)), Reshape((n, m, 12))], []),
    ((n, 12), [Slice((1,), (2,), (8,)), Slice((1,), (1,), (4,))], [Slice((1,), (3,), (6,))]),
    ((n,), [Slice((0,), (1,), (n,)), Slice((0,), (2,), (n - 1,))], [Slice((0,), (3,), (n,))]),
    ((12,), [Reshape((3, 4)), Slice((1,), (0,), (1,)), Squeeze((1,))], [Step((0,), (4,))]),
    ((2, 3), [Reshape((6,)), Reshape((3, 2))], [Reshape((3, 2))]),
    ((3,), [Multibroadcast((n, 3)), Contiguous(), Unsqueeze((0,))], [Multibroadcast((1, n, 3))]),
]


@pytest.mark.parametrize(("dims", "first", "second"), SAME)
def test_equal_reads_are_equal_maps(
    dims: tuple[Extent, ...], first: list[Operation], second: list[Operation]
) -> None:
    assert along(dims, *first) == along(dims, *second) is not None


UNKNOWN: Iterable[tuple[tuple[Extent, ...], list[Operation]]] = [
    ((n, 3), [Reshape((m, 3))]),
    ((n,), [Squeeze((0,))]),
    ((n,), [Step((0,), (2,))]),
    ((n,), [Multibroadcast((m,))]),
    ((2, n), [Transpose((1, 0)), Reshape((2 * n,)), Slice((0,), (1,), (n,))]),
    ((3, 2), [Transpose((1, 0)), Reshape((3, 2))]),
    ((4, 4), [Transpose((1, 0)), Reshape((16,)), Slice((0,), (1,), (9,))]),
    ((0, 3), []),
    ((3,), [Reverse((0,))]),
    ((3,), [Relu()]),
]


@pytest.mark.parametrize(("dims", "ops"), UNKNOWN)
def test_there_is_no_map_where_it_would_not_be_exact(
    dims: tuple[Extent, ...], ops: list[Operation]
) -> None:
    assert along(dims, *ops) is None


def test_factors_are_as_few_as_can_be() -> None:
    index = along((n, 8), Reshape((n, 2, 4)), Reshape((n * 2, 4)), Reshape((n, 8)))
    assert index is not None
    assert index.axes == ((Factor(n, 0, 1),), (Factor(8, 1, 1),))
    assert index.source == index.dims == (n, 8)

"""Random chains of views, for tests of what is made of them."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from migx.op import Operation
from migx.ops.layout import (
    Broadcast,
    Multibroadcast,
    Reshape,
    Slice,
    Squeeze,
    Step,
    Transpose,
    Unsqueeze,
)
from migx.shape import F32, Shape

Sizes = tuple[int, ...]

dims = st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=4).map(tuple)


@st.composite
def view(draw: st.DrawFn, given: Sizes) -> Operation:
    """One view that a tensor of these dims has."""
    rank = len(given)
    made: list[Operation] = [
        Transpose(tuple(draw(st.permutations(range(rank))))),
        Reshape(draw(factors(math.prod(given)))),
    ]
    if ones := [i for i, d in enumerate(given) if d == 1]:
        made.append(Squeeze(tuple(sorted(draw(st.sets(st.sampled_from(ones), min_size=1))))))
    if rank < 5:
        made.append(Unsqueeze((draw(st.integers(0, rank)),)))
    if math.prod(given) <= 200:
        wide = [draw(st.sampled_from([1, 2, 3])) if d == 1 else d for d in given]
        lead = draw(st.sampled_from([(), (2,), (3,)]))
        made.append(Multibroadcast((*lead, *wide)))
        made.append(Broadcast(len(lead), (*lead, *given, draw(st.sampled_from([1, 2])))))
    if rank:
        axis = draw(st.integers(0, rank - 1))
        start = draw(st.integers(0, given[axis] - 1))
        made.append(Slice((axis,), (start,), (draw(st.integers(start + 1, given[axis])),)))
        made.append(Step((axis,), (draw(st.sampled_from([2, 3])),)))
    return draw(st.sampled_from(made))


@st.composite
def factors(draw: st.DrawFn, product: int) -> Sizes:
    """Some dims of this product."""
    made: list[int] = []
    while product > 1 and len(made) < 3:
        made.append(draw(st.sampled_from([d for d in range(1, product + 1) if product % d == 0])))
        product //= made[-1]
    made.insert(draw(st.integers(0, len(made))), product)
    return tuple(made)


@st.composite
def chains(draw: st.DrawFn, length: int = 8) -> tuple[Sizes, list[Operation]]:
    """The dims of a tensor and a chain of views of it."""
    given: Sizes = draw(dims.filter(lambda d: math.prod(d) <= 600))
    made: list[Operation] = []
    shape = Shape(F32, given)
    for _ in range(draw(st.integers(1, length))):
        op = draw(view(tuple(int(d) for d in shape.dims)))
        made.append(op)
        shape = op.compute_shape([shape.as_standard()], ())
    return given, made

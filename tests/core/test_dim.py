"""Symbolic dims: arithmetic means what numbers mean, forms are canonical, bounds hold."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from migx import dim, parse
from migx.dim import Dim, Extent
from migx.dims.extents import Extents
from migx.errors import DimError, EvaluationError
from migx.program import Program
from migx.shape import F32, Shape

Tree: TypeAlias = Any  # a leaf (a name or an int), or (function, left, right)

A, B, C = Dim("a"), Dim("b", 1, 9), Dim("c", 2)
SYMBOLS = {"a": A, "b": B, "c": C}
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., int]]] = {
    "+": (operator.add, operator.add),
    "-": (operator.sub, operator.sub),
    "*": (operator.mul, operator.mul),
    "//": (operator.floordiv, operator.floordiv),
    "%": (operator.mod, operator.mod),
    "min": (dim.minimum, min),
    "max": (dim.maximum, max),
}
"""Each function on extents, and on numbers."""

leaves = st.sampled_from(["a", "b", "c", "a", "b", -2, -1, 0, 1, 2, 3, 4])
trees: st.SearchStrategy[Tree] = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner, inner),
    max_leaves=6,
)
sizes = st.fixed_dictionaries(
    {"a": st.integers(0, 12), "b": st.integers(1, 9), "c": st.integers(2, 12)}
)
examples = settings(max_examples=300, deadline=None)


def built(tree: Tree) -> Extent:
    """The extent a tree describes; trees that divide by a literal 0 are skipped."""
    if isinstance(tree, tuple):
        left, right = built(tree[1]), built(tree[2])
        assume(not (tree[0] in "//%" and right == 0))
        made: Extent = FUNCTIONS[tree[0]][0](left, right)
        return made
    return SYMBOLS[tree] if isinstance(tree, str) else int(tree)


def meaning(tree: Tree, values: Mapping[str, int]) -> int:
    """The number a tree describes; sizes that divide by 0 are skipped."""
    if isinstance(tree, tuple):
        left, right = meaning(tree[1], values), meaning(tree[2], values)
        assume(not (tree[0] in "//%" and right == 0))
        return FUNCTIONS[tree[0]][1](left, right)
    return values[tree] if isinstance(tree, str) else int(tree)


@examples
@given(trees, sizes)
def test_extents_compute_what_numbers_do(tree: Tree, values: dict[str, int]) -> None:
    expected = meaning(tree, values)
    assert dim.evaluate(built(tree), values) == expected


@examples
@given(st.lists(trees, min_size=1, max_size=6), st.lists(sizes, min_size=1, max_size=2))
def test_extents_at_once_are_those_one_by_one(
    given_trees: list[Tree], each: list[dict[str, int]]
) -> None:
    known = Extents()
    extents = [built(tree) for tree in given_trees]
    places = [known.place(extent) for extent in extents]
    for values in each:
        for tree in given_trees:
            meaning(tree, values)
        numbers = known.at(values)
        assert [numbers[at] for at in places] == [dim.evaluate(e, values) for e in extents]
        places.append(known.place(A * C + 7))  # what is asked for later is known as well
        extents.append(A * C + 7)


def test_extents_beyond_64_bits_are_refused() -> None:
    known = Extents()
    for extent in (A, 3 * A * B - 5, 2**63 - 1):
        known.place(extent)
    assert known.at({"a": 10**9, "b": 10**9}).tolist() == [10**9, 3 * 10**18 - 5, 2**63 - 1]
    with pytest.raises(EvaluationError, match=r"a=10000000000, b=1000000000: 3\*a\*b - 5 is too"):
        known.at({"a": 10**10, "b": 10**9})
    with pytest.raises(DimError, match="dim b has no size"):
        known.at({"a": 1})
    for extent in (2**63, 2**64 * A, A + 2**63 - 5):
        known = Extents()
        known.place(extent)
        with pytest.raises(EvaluationError, match=r"a size of .* is too large"):
            known.at({"a": 5})
    known = Extents()
    known.place(2**61 * (A + B + C + A * B))
    with pytest.raises(EvaluationError, match="is too large"):
        known.at({"a": 1, "b": 1, "c": 1})


@examples
@given(trees, sizes)
def test_bounds_hold_every_value(tree: Tree, values: dict[str, int]) -> None:
    expected = meaning(tree, values)
    low, high = dim.bounds(built(tree))
    assert low <= expected <= high


@examples
@given(trees, trees)
def test_forms_are_canonical(left: Tree, right: Tree) -> None:
    a, b = built(left), built(right)
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) - b == a
    assert a - a == 0
    assert dim.minimum(a, b) == dim.minimum(b, a)
    assert dim.maximum(a, b) == dim.maximum(b, a)
    if b != 0:
        assert (a * b) // b == a
        assert (a * b) % b == 0


@examples
@given(trees)
def test_texts_parse_to_the_extents_they_were_printed_from(tree: Tree) -> None:
    extent = built(tree)
    assume(isinstance(extent, Dim))
    program = Program()
    program.main.add_return(program.main.add_parameter("x", Shape(F32, (extent,))))
    (again,) = parse(str(program)).main.parameters["x"].shape.dims
    assert again == extent
    assert (str(again), hash(again)) == (str(extent), hash(extent))


@examples
@given(trees, trees, sizes)
def test_substitution_agrees_with_evaluation(
    tree: Tree, inner: Tree, values: dict[str, int]
) -> None:
    changed = {**values, "a": abs(meaning(inner, values))}
    expected = meaning(tree, changed)
    assert dim.substitute(built(tree), changed) == expected
    replacement = built(inner)
    assume(dim.bounds(replacement)[0] >= 0)
    composed = dim.substitute(built(tree), {"a": replacement})
    assert dim.evaluate(composed, values) == expected
    left = {symbol.name for symbol in dim.symbols(composed)}
    assert left <= {s.name for e in (replacement, built(tree)) for s in dim.symbols(e)}


def answered(compare: Callable[[Any, Any], bool], a: Extent, b: Extent) -> bool | None:
    """What a comparison says, or None where it refuses to."""
    try:
        return compare(a, b)
    except DimError:
        return None


@examples
@given(trees, trees, sizes)
def test_comparisons_are_right_or_refused(left: Tree, right: Tree, values: dict[str, int]) -> None:
    a, b = built(left), built(right)
    x, y = meaning(left, values), meaning(right, values)
    low, high = dim.bounds(a - b)
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        answer = answered(compare, a, b)
        assert answer in (None, compare(x, y))
        assert answer is not None or low <= 0 <= high
    assert x != y or dim.may_equal(a, b)


@examples
@given(
    st.lists(st.sampled_from("abc"), max_size=5),
    st.sampled_from([0, 1, 5]),
    st.sets(st.sampled_from("abc")),
    st.booleans(),
)
def test_broadcast_is_the_extent_that_is_not_1(
    names: list[str], wide: int, ones: set[str], with_ints: bool
) -> None:
    symbols = {name: Dim(name) for name in "abc"}
    values = {name: 1 if name in ones else wide for name in "abc"}
    extents: list[Extent] = [symbols[name] for name in names]
    extents += [wide, 1] if with_ints else []
    expected = next((n for n in [dim.evaluate(e, values) for e in extents] if n != 1), 1)
    for made in (dim.broadcast(*extents), dim.broadcast(*reversed(extents))):
        assert dim.evaluate(made, values) == expected
        low, high = dim.bounds(made)
        assert low <= expected <= high
    assert dim.broadcast(*extents) == dim.broadcast(*reversed(extents))


@examples
@given(st.integers(0, 6), st.integers(1, 6), st.integers(0, 4))
def test_broadcast_leaves_out_what_is_the_least_of_another(a: int, b: int, limit: int) -> None:
    """Where they broadcast at all; the sizes of who reads both say whether they do."""
    for least in (dim.minimum(A, limit), dim.minimum(A, B + 1, limit), dim.minimum(A, B)):
        sizes = [dim.evaluate(e, {"a": a, "b": b}) for e in (A, least)]
        if len({size for size in sizes if size != 1}) < 2:
            expected = next((size for size in sizes if size != 1), 1)
            assert dim.evaluate(dim.broadcast(A, least), {"a": a, "b": b}) == expected
    assert dim.broadcast(A, dim.minimum(A, 9)) == A
    assert dim.broadcast(A, dim.minimum(A, C)) == A
    assert dim.broadcast(A, dim.minimum(A, 0)) == 0
    assert dim.broadcast(A, dim.minimum(A, Dim("z"))) != A, "z may be 0 where a is 1"


def test_broadcast_is_decided_by_what_is_not_1() -> None:
    assert dim.broadcast() == 1
    assert dim.broadcast(A, 4) == 4
    assert dim.broadcast(A, C, 1) == C
    assert dim.broadcast(0, A) == 0
    assert str(dim.broadcast(B, A)) == "broadcast(a, b)"
    pairs: list[tuple[Extent, Extent]] = [(3, 4), (C + 5, 3), (0, C)]
    for extents in pairs:
        with pytest.raises(DimError, match="do not broadcast: equal, or one of them 1"):
            dim.broadcast(*extents)
    with pytest.raises(DimError, match=r"sizes \[2, 3\] do not broadcast"):
        dim.evaluate(dim.broadcast(A, B), {"a": 2, "b": 3})


n, m = Dim("n"), Dim("m", 1)
SIMPLIFIED: dict[str, tuple[Extent, Extent]] = {
    "a sum loses its symbols": (n + 3 - n, 3),
    "a product of nothing": (n * 0, 0),
    "a whole multiple": ((n * 6 + 9) // 3, n * 2 + 3),
    "what divides comes out": ((n * 4 + 3) // 4, n),
    "nested quotients": (n // 2 // 3, n // 6),
    "a polynomial quotient": (((n + 1) * (m + 2)) // (m + 2), n + 1),
    "a multiple has no remainder": ((n * m) % m, 0),
    "a literal remainder": ((n * 8 + 5) % 8, 5),
    "nothing divided": (0 // m, 0),
    "smaller than the divisor": (Dim("k", 0, 3) // Dim("l", 4), 0),
    "the lesser of neighbours": (dim.minimum(n, n + 1), n),
    "the greatest, nested": (dim.maximum(n, dim.maximum(m, n), 0), dim.maximum(m, n)),
    "bounds decide": (dim.minimum(Dim("k", 0, 3), Dim("l", 4), 9), Dim("k", 0, 3)),
    "numbers are folded": (dim.maximum(2, 5, n), dim.maximum(n, 5)),
    "the product of dims": (dim.product([n, 2, m]), n * m * 2),
}


@pytest.mark.parametrize("case", SIMPLIFIED)
def test_simplifies(case: str) -> None:
    made, expected = SIMPLIFIED[case]
    assert made == expected
    assert type(made) is type(expected)
    assert str(made) == str(expected)


@pytest.mark.parametrize(
    ("extent", "text"),
    [
        (3 - n * 2, "3 - 2*n"),
        (n * n - m + 1, "n*n + 1 - m"),
        (-n, "-n"),
        ((n + 1) // m * 2, "2*((n + 1)//m)"),
        (n // (m // n), "n//(m//n)"),
        (n - -2 // n, "n - ((-2)//n)"),
        (dim.minimum(n, m, 4), "min(m, n, 4)"),
        (Dim("batch size"), "`batch size`"),
        (Dim("layer.0"), "layer.0"),
    ],
)
def test_text(extent: Extent, text: str) -> None:
    assert str(extent) == repr(extent) == text


@pytest.mark.parametrize(
    ("extent", "low", "high"),
    [
        (A, 0, float("inf")),
        (B * 3 - 2, 1, 25),
        (B - C, -float("inf"), 7),
        (5 // (B - 3), -float("inf"), float("inf")),
        (A // B, 0, float("inf")),
        (20 // C, 0, 10),
        (dim.minimum(A, B), 0, 9),
        (dim.maximum(A, B), 1, float("inf")),
        (7, 7, 7),
        (C - 3 * C // 4, 1, float("inf")),
        ((A + 1) // 2 - A // 2, 0, 1),
        (4 * A - A // 2 * 8, 0, 4),
        (C - dim.minimum(C, 5), 0, float("inf")),
        (dim.minimum(A, 7) - dim.minimum(A, 5), 0, 2),
        (dim.maximum(A - B, 0) - A, -9, 0),
        (dim.broadcast(A, C) - A, -float("inf"), float("inf")),
    ],
)
def test_bounds(extent: Extent, low: float, high: float) -> None:
    assert dim.bounds(extent) == (low, high)


def test_symbols() -> None:
    named = Dim("batch", 1, 64, (32, 8))
    assert named.symbol is not None
    assert (named.symbol.optimals, named.symbol.bounds) == ((8, 32), (1, 64))
    for composed in (named + 1, named * 2, named * named, named // 3):
        assert isinstance(composed, Dim)
        assert composed.symbol is None
    assert {s.name for s in dim.symbols(n // (m + 1) + dim.minimum(n, C) * 2)} == {"n", "m", "c"}
    assert list(dim.symbols(5)) == []
    assert named != Dim("batch")
    assert hash(named) != hash(Dim("batch"))
    assert named != 3


def test_comparisons_that_bounds_decide() -> None:
    assert B < 10
    assert B <= 9
    assert C > 1
    assert C >= 2
    assert all([C, A + 1, -C, 2 * A - 1])
    assert not B > 9
    assert A + 1 > A
    assert sorted([A + 2, A, A + 1]) == [A, A + 1, A + 2]
    assert dim.may_equal(B, C)
    assert not dim.may_equal(B, 10)
    assert not dim.may_equal(A, A + 1)
    assert not dim.may_equal(4 * A - 6 * m, 3)
    assert dim.may_equal(4 * A - 6 * m, 2)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Dim("n", -1), "dim 'n' needs 0 <= low <= high, got -1..None"),
        (lambda: Dim("n", 3, 2), r"got 3\.\.2"),
        (lambda: A < C, "whether a < c is not known before the dims are bound"),
        (lambda: A >= C, "whether a < c is not known"),
        (lambda: A > 3, "whether a > 3 is not known"),
        (lambda: not A, "whether a is 0 is not known before the dims are bound"),
        (lambda: any([0, A - B]), "whether a - b is 0 is not known"),
        (lambda: int(A + 1), r"a \+ 1 has no value yet: bind its symbols first"),
        (lambda: range(A), "a has no value yet"),
        (lambda: A // 0, "a // 0 divides by zero"),
        (lambda: operator.mul(A, 1.5), r"dims compute with whole numbers and dims, not 1\.5"),
        (lambda: operator.mul(A, 0.0), r"not 0\.0"),
        (lambda: operator.add(A, 0.5), r"not 0\.5"),
        (lambda: operator.floordiv(A, 2.0), r"not 2\.0"),
        (lambda: operator.mod(2.5, A), r"not 2\.5"),
        (lambda: operator.lt(A, 1.5), r"not -1\.5"),
        (lambda: dim.evaluate(B // A, {"a": 0, "b": 1}), "b//a divides by zero"),
        (lambda: dim.evaluate(A, {"b": 1, "c": 2}), "dim a has no size; sizes are given for b, c"),
        (lambda: dim.evaluate(A, {}), "sizes are given for none"),
        (lambda: dim.call("ceil", A), "dims know floordiv, min, max, broadcast, not 'ceil'"),
    ],
)
def test_errors_say_what_is_missing(act: Callable[[], object], message: str) -> None:
    with pytest.raises(DimError, match=message):
        act()


def test_bounds_of_calls_within_calls_are_found_soon() -> None:
    """Sizes of residual additions where neither images nor kernels are known."""
    size: Extent = (Dim("n") + Dim("w")) // 2
    before = dim._together.cache_info().misses
    for k in range(12):
        size = dim.broadcast(size - Dim(f"a{k}", 1), (size + 3 - Dim(f"b{k}", 1)) // 2)
        assert dim.may_equal(size, Dim("n"))
    assert dim._together.cache_info().misses - before < 1000

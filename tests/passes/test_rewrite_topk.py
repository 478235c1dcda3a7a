"""Into how many parts a line is split, whose best are found first."""

from __future__ import annotations

from migx.passes.rewrite_topk import GAIN, parts


def test_the_parts_have_the_fewest_comparisons() -> None:
    for n in range(1, 130):
        for k in range(1, min(n, 9) + 1):
            tried = {c: n * n // c + (c * k) ** 2 for c in range(2, n // k + 1) if n % c == 0}
            least = min(tried.values(), default=n * n)
            found = parts(n, k)
            assert tried[found] == least if found > 1 else GAIN * least > n * n


def test_they_are_found_at_once_however_long_a_line_is() -> None:
    assert 10**12 % parts(10**12, 1) == 0
    assert parts(10**12 + 39, 1) == 1, "it is a prime"

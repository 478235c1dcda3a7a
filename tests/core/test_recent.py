"""A table that forgets what was added first."""

from __future__ import annotations

from migx.base.recent import Recent


def test_the_oldest_goes_first() -> None:
    table: Recent[int, int] = Recent(2)
    for i in range(4):
        table[i] = i
    assert dict(table) == {2: 2, 3: 3}

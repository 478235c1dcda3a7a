"""What is kept for later processes: what goes when it takes too much."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import migx
from migx.base import disk_cache
from migx.errors import TargetError

SHARE = (1 << 20) // 256
"""The bytes one of the folders may take where all may take a megabyte."""


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names whose files lie in one folder, the last of which trims it."""
    monkeypatch.setenv("MIGX_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MIGX_CACHE_MB", "1")
    places = {name: disk_cache._place("things", name) for name in map(str, range(20_000))}
    beside = [n for n, p in places.items() if p is not None and p.parent.name == "00"]
    trims = [n for n in beside if (p := places[n]) is not None and p.name.endswith("0")]
    return [n for n in beside if n not in trims][:8] + trims[:1]


def test_what_was_not_read_for_longest_goes(names: list[str]) -> None:
    content = bytes(SHARE // 4)
    for age, name in enumerate(names[:-1]):
        disk_cache.write("things", name, content)
        path = disk_cache._place("things", name)
        assert path is not None
        os.utime(path, ns=(age, age))
    assert disk_cache.read("things", names[0]) == content  # read now, so the newest of them
    disk_cache.write("things", names[-1], content)
    left = [name for name in names if disk_cache.read("things", name) is not None]
    assert left == [names[0], names[7], names[8]]  # a quarter and a digest each: three fit


def test_a_limit_that_is_no_number_is_refused(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGX_CACHE_MB", "much")
    with pytest.raises(TargetError, match="MIGX_CACHE_MB is 'much'; it must be a number"):
        disk_cache.write("things", names[0], b"content")
    text = "module main(x: f32[2]) {\n  %0 = relu(x) : f32[2]\n  return %0\n}\n"
    with pytest.raises(TargetError) as caught:
        migx.parse(text).compile("cpu")
    assert not hasattr(caught.value, "__notes__")  # no pass is blamed

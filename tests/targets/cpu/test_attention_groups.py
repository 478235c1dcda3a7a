"""Attention on the cpu in which groups of heads share keys and values, against ``ref``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from migx import dim
from migx.targets.cpu.kernels.attention import kernel_for
from migx.targets.cpu.machine import host
from tests.targets.cpu.alone import parsed, problem, produced
from tests.targets.cpu.attentions import PASS, in_groups

MASKS = {
    "of keys": ("f32[b, 1, 1, t]", "add"),
    "of queries and keys": ("f32[s, t]", "add"),
    "of each head": ("f32[b, HEADS, s, t]", "add"),
    "of each head, for all of a batch": ("f32[HEADS, s, t]", "mul"),
    "a slope of each head": ("f32[HEADS, 1, 1]", "mul"),
}


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_groups_that_share_keys_and_values(mask: tuple[str, str], dtype: str) -> None:
    (shape, met), groups, each = mask, 2, 3
    between = f"""%5 = multibroadcast(m) {{out_lens=(b, 6, s, t)}}
  %7 = {met}(%4, %5)"""
    more = ", m: " + shape.replace("HEADS", "6")
    text = in_groups(groups, each, MORE=more, BETWEEN=between).replace("f32", dtype)
    program = parsed(text, PASS)
    for queries, keys in ((1, 40), (2, 17), (3, 0), (40, 9), (70, 130)):
        assert not problem(kernel_for, program, {"b": 2, "s": queries, "t": keys})


@pytest.mark.parametrize("each", [2, 4, 5, 7, 8])
@pytest.mark.parametrize("d", [64, 80, 33])
def test_rows_of_groups_of_any_number(each: int, d: int) -> None:
    """Some at a time, and what is left of them."""
    program = parsed(in_groups(2, each, d), PASS)
    for queries, keys in ((1, 1), (1, 1200), (5, 50)):
        assert not problem(kernel_for, program, {"b": 1, "s": queries, "t": keys})


def test_groups_whose_keys_lie_across() -> None:
    text = in_groups(2, 3).replace("k: f32[b, 2, t, 8]", "k: f32[b, 2, 8, t]")
    text = text.replace("2, 3, t, 8)}\n  %2 = reshape(%1) {dims=(b, 6, t, 8)}",
                        "2, 3, 8, t)}\n  %2 = reshape(%1) {dims=(b, 6, 8, t)}")  # fmt: skip
    text = text.replace("%3 = transpose(%2) {permutation=(0, 1, 3, 2)}", "%3 = identity(%2)")
    program = parsed(text, PASS)
    for queries, keys in ((1, 300), (4, 31), (70, 50)):
        assert not problem(kernel_for, program, {"b": 2, "s": queries, "t": keys})


def test_weights_of_groups_that_are_squared() -> None:
    text = in_groups(2, 3).replace("%12 = dot(%8", "%13 = mul(%8, %8)\n  %12 = dot(%13")
    program = parsed(text.replace("%12", "%x").replace("%13", "%12").replace("%x", "%13"), PASS)
    for queries, keys in ((1, 40), (4, 7), (70, 50)):
        assert not problem(kernel_for, program, {"b": 2, "s": queries, "t": keys})


def test_a_tile_has_all_heads_of_a_group_where_queries_are_few() -> None:
    """If that leaves a tile for each core; otherwise fewer, and never where queries are many."""
    at = produced(parsed(in_groups(2, 6, 64), PASS))
    tiles = {}
    for cores in (1, 2, 4, 8, 64):
        kernel = kernel_for(at, replace(host(), cores=cores))
        assert kernel is not None
        sizes = [{"b": 1, "s": s, "t": 100} for s in (1, 1000)]
        tiles[cores] = [dim.evaluate(kernel.tiles, each) for each in sizes]
    few, many = zip(*tiles.values(), strict=True)
    assert few == (2, 2, 4, 6, 12)
    assert len(set(many)) == 1
    assert many[0] % 12 == 0

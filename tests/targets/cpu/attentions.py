"""Attention as text: one head after the other, or in groups that share keys and values."""

from __future__ import annotations

import re

PASS = "fuse_attention"


def attention(q: str, k: str, v: str, between: str, more: str, after: str) -> str:
    """A program of queries, keys and values of [batch, heads, count, features]; ``between`` makes
    ``%s`` of the products ``%p``, and ``after`` what follows of the softmax ``%w``.
    """
    text = f"""
module main(q: f32[{q}], k: f32[{k}], v: f32[{v}]{more}) {{
  %t = transpose(k) {{permutation=(0, 1, 3, 2)}}
  %p = dot(q, %t)
  {between}
  %w = softmax(%s) {{axis=3}}
  {after}
  return %r
}}
"""
    numbers: dict[str, str] = {}
    return re.sub(r"%\w+", lambda name: numbers.setdefault(name[0], f"%{len(numbers)}"), text)


def of(
    b: str,
    h: str,
    s: str,
    t: str,
    d: str = "8",
    w: str = "8",
    *,
    between: str = "%s = relu(%p)",
    more: str = "",
    after: str = "%r = dot(%w, v)",
) -> str:
    shapes = f"{b}, {h}, {s}, {d}", f"{b}, {h}, {t}, {d}", f"{b}, {h}, {t}, {w}"
    return attention(*shapes, between, more, after)


def in_groups(groups: int, each: int, d: int = 8, **more: str) -> str:
    """Heads of queries of which so many share each of keys and values, as exporters repeat these:
    all sizes but those of heads are symbols.
    """
    shapes = f"b, {groups * each}, s, {d}", f"b, {groups}, t, {d}", f"b, {groups}, t, {d}"
    text = """module main(q: f32[Q], k: f32[K], v: f32[K]MORE) {
  %0 = unsqueeze(k) {axes=(2,)}
  %1 = multibroadcast(%0) {out_lens=(b, GROUPS, EACH, t, D)}
  %2 = reshape(%1) {dims=(b, HEADS, t, D)}
  %3 = transpose(%2) {permutation=(0, 1, 3, 2)}
  %4 = dot(q, %3)
  BETWEEN
  %8 = softmax(%7) {axis=3}
  %9 = unsqueeze(v) {axes=(2,)}
  %10 = multibroadcast(%9) {out_lens=(b, GROUPS, EACH, t, D)}
  %11 = reshape(%10) {dims=(b, HEADS, t, D)}
  %12 = dot(%8, %11)
  return %12
}
"""
    words = {"Q": shapes[0], "K": shapes[1], "GROUPS": groups, "EACH": each, "D": d}
    words |= {"HEADS": groups * each, "MORE": "", "BETWEEN": "%7 = relu(%4)"} | more
    return re.sub("[A-Z]+", lambda word: str(words[word[0]]), text)

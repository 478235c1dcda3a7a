"""A small program that rules and whole passes change, and what its report says."""

from __future__ import annotations

import pytest

import migx
from migx.view import Report, report

TEXT = """module main(x: f32[batch, 3], y: f32[batch, 3]) {
  %0 = neg(x) : f32[batch, 3] from "first"
  %1 = neg(%0) : f32[batch, 3] from "second"
  %2 = exp(%1) : f32[batch, 3] from "exp"
  %3 = exp(%1) : f32[batch, 3] from "same"
  %4 = mul(%2, %3) : f32[batch, 3] from "mul"
  %5 = sub(%4, y) : f32[batch, 3] from "sub"
  return z=%5
}
"""
PASSES = "simplify_algebra,eliminate_common_subexpression,fuse_pointwise"


@pytest.fixture(scope="session")
def made() -> Report:
    """The report of ``PASSES`` on ``TEXT``."""
    return report(migx.parse(TEXT), "ref", passes=PASSES, title="<small>")

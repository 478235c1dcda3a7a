"""Algebra: identities, constants merged and moved into weights, and equal work done once.

A folder of rules by family; each rule's docstring is the identity it applies. All are exact on
integers, which wrap around. On floats those that only drop, reorder or rename an operation are
exact too, to the sign of zero; those that merge constants round once where two roundings were, at
another place. None trades NaN, infinities or accuracy for speed: log(exp(x)) stays, and x / 3 too.

No rule makes more work than it saves, given that what is constant is computed once, nor a constant
larger than what it frees, nor touches weights that are packed or quantised.
"""

from __future__ import annotations

from migx.manager import Pass
from migx.passes.simplify_algebra.broadcasts import broadcasts
from migx.passes.simplify_algebra.clamps import clamps
from migx.passes.simplify_algebra.horizontal import horizontal
from migx.passes.simplify_algebra.linear import linear
from migx.passes.simplify_algebra.logic import logic
from migx.passes.simplify_algebra.merging import merging
from migx.passes.simplify_algebra.powers import powers
from migx.passes.simplify_algebra.reductions import reductions
from migx.passes.simplify_algebra.units import units


class SimplifyAlgebra(Pass):
    """Applies algebraic identities until none is left to apply (MIGraphX pass of this name)."""

    rules = (
        units + logic + clamps + powers + reductions + broadcasts + merging + linear + horizontal
    )

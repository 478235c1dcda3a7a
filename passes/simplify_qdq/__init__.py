"""Products of quantised values become integer products, and no-ops are removed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from migx.ir import Module
from migx.manager import Pass, PassManager
from migx.passes.simplify_qdq.cleaning import cleaning, fake
from migx.passes.simplify_qdq.packed import packed
from migx.passes.simplify_qdq.products import products
from migx.passes.simplify_qdq.tables import tables
from migx.rewrite import rewrite


class SimplifyQdq(Pass):
    """Turns products between dequantised values, and between bytes widened to i32, into
    ``quant_dot`` and ``quant_convolution``, brings packed weights into the form ``unpack_int4``,
    ``dequantizelinear``, product, scales only the rows that are picked from a packed table, and
    removes no-ops (MIGraphX simplify_qdq).

    The products are exact where floats round, so results are as good or better. With
    ``remove_fake``, a quantisation followed by a dequantisation is removed where no product
    profits: results are then those of the model before it was quantised.
    """

    rules = cleaning + packed + tables + products
    remove_fake: bool = False
    variants = ("remove_fake=true",)

    @property
    def approximations(self) -> Mapping[str, float]:
        """Without ``remove_fake``, none; with it, a value that was saturated may be any other."""
        return {"dequantizelinear": math.inf} if self.remove_fake else {}

    def apply(self, module: Module, manager: PassManager) -> bool:
        """Applies the rules, and last, where asked for, the one that changes results."""
        changed = rewrite(module, self.rules, self.name, manager.log)
        if self.remove_fake:
            changed |= rewrite(module, fake + cleaning, self.name, manager.log)
        return changed

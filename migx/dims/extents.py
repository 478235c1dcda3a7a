"""Evaluation of size expressions that change from run to run, many at once, and caching of what
follows from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from migx import dim
from migx.base.recent import Recent
from migx.dim import Dim, Extent, Monomial
from migx.dims.symbol import listed
from migx.errors import EvaluationError

Numbers: TypeAlias = NDArray[np.int64]
Found = TypeVar("Found")
LARGEST = np.iinfo(np.int64).max
LIMIT = 2**62
"""Extents that reach this, constants aside, are refused: they may overflow 64 bits."""


class Extents:
    """Extents evaluated together, each by its index in the result.

    An extent is a constant and a sum of products of sizes, and many share products. So each product
    is evaluated once, and one product with the matrix of coefficients gives all extents.
    """

    def __init__(self) -> None:
        self._places: dict[Extent, int] = {}
        self._built = -1

    def place(self, extent: Extent) -> int:
        """The index of an extent in the result."""
        return self._places.setdefault(extent, len(self._places))

    def at(self, sizes: Mapping[str, int]) -> Numbers:
        """The values of all extents; ``DimError`` names a symbol without a size, and
        ``EvaluationError`` an extent that exceeds 64 bits.
        """
        if self._built < len(self._places):
            self._build()
        products = [dim.evaluate(product, sizes) for product in self._products]
        if products and max(*products, -min(products)) >= self._most:
            self._expect_room(products, sizes)
        return self._constants + self._matrix @ np.array(products, np.int64)

    def _expect_room(self, products: list[int], sizes: Mapping[str, int]) -> None:
        found = np.abs(self._matrix).astype(object) @ np.abs(np.array(products, object))
        if found[largest := found.argmax()] >= LIMIT:
            raise EvaluationError(f"with {listed(sizes)}: {[*self._places][largest]} is too large")

    def _build(self) -> None:
        constant: Monomial = ()
        columns = {constant: 0}
        entries = [
            (row, columns.setdefault(monomial, len(columns)), coefficient)
            for row, extent in enumerate(self._places)
            for monomial, coefficient in dim.terms(extent)
        ]
        whole = np.zeros((len(self._places), len(columns)), np.int64)
        extents = [*self._places]
        for row, column, coefficient in entries:
            if abs(coefficient) > (LIMIT if isinstance(extents[row], Dim) else LARGEST):
                raise EvaluationError(f"a size of {extents[row]} is too large")
            whole[row, column] = coefficient
        self._constants, self._matrix = whole[:, 0], np.ascontiguousarray(whole[:, 1:])
        together = np.abs(self._matrix).sum(1, dtype=np.float64)  # may exceed 64 bits
        self._most = LIMIT // max(int(together.max(initial=1)), 1)
        self._products = [Dim.of({monomial: 1}) for monomial in columns if monomial]
        self._built = len(self._places)


Key: TypeAlias = tuple[int | None, ...]
"""The sizes of some symbols, in order; None for one that is not known."""


class BySizes(Recent[Key, Found]):
    """A function of sizes, cached for the last ``most`` sets of sizes of its symbols; its results
    are never None.
    """

    def __init__(
        self, names: Iterable[str], ask: Callable[[Mapping[str, int]], Found], most: int
    ) -> None:
        super().__init__(most)
        self._names, self._ask = tuple(names), ask

    def at(self, sizes: Mapping[str, int]) -> Found:
        """The value for these sizes."""
        key = tuple(map(sizes.get, self._names))
        found = self.get(key)
        if found is None:
            found = self[key] = self._ask(sizes)
        return found


class Latest(Generic[Found]):
    """A function of sizes, evaluated again only if one of its symbols has another size than the
    last time. A plan consists of very many of these.
    """

    def __init__(self, names: Iterable[str], ask: Callable[[Mapping[str, int]], Found]) -> None:
        self.names, self._ask = tuple(names), ask
        self._known: tuple[Key, Found] | None = None

    def at(self, sizes: Mapping[str, int]) -> Found:
        """The value for these sizes."""
        key = tuple(map(sizes.get, self.names))
        known = self._known
        if known is None or known[0] != key:
            known = self._known = (key, self._ask(sizes))
        return known[1]

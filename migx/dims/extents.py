"""What comes of sizes that change from run to run: the values of many extents at once, and what is
known of the sizes before.
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
LIMIT = 2**62
"""What extents of any sizes are less than, their constants aside."""


class Extents:
    """Extents that are wanted for the same sizes, each by its place among the numbers.

    An extent is a constant and a sum of products of sizes, and many have the same products. So each
    product is evaluated once, and the matrix of the coefficients makes all numbers of them.
    """

    def __init__(self) -> None:
        self._places: dict[Extent, int] = {}
        self._built = -1

    def place(self, extent: Extent) -> int:
        """Where an extent is among the numbers."""
        return self._places.setdefault(extent, len(self._places))

    def at(self, sizes: Mapping[str, int]) -> Numbers:
        """The numbers; ``DimError`` names a symbol that has no size, and ``EvaluationError`` an
        extent that is more than 64 bits can say.
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
        for row, column, coefficient in entries:
            whole[row, column] = coefficient
        self._constants, self._matrix = whole[:, 0], np.ascontiguousarray(whole[:, 1:])
        self._most = LIMIT // max(int(np.abs(self._matrix).sum(1).max(initial=1)), 1)
        self._products = [Dim.of({monomial: 1}) for monomial in columns if monomial]
        self._built = len(self._places)


Key: TypeAlias = tuple[int | None, ...]
"""The sizes of some symbols, in their order; None of one that has none."""


class BySizes(Recent[Key, Found]):
    """What something comes to for sizes, kept for the last ``most`` sets of sizes of its symbols
    that it was asked for; it is never None.
    """

    def __init__(
        self, names: Iterable[str], ask: Callable[[Mapping[str, int]], Found], most: int
    ) -> None:
        super().__init__(most)
        self._names, self._ask = tuple(names), ask

    def at(self, sizes: Mapping[str, int]) -> Found:
        """What it comes to."""
        key = tuple(map(sizes.get, self._names))
        found = self.get(key)
        if found is None:
            found = self[key] = self._ask(sizes)
        return found


class Latest(Generic[Found]):
    """What something comes to for sizes, asked anew where one of its symbols has another size than
    the time before. A plan is made of very many of these.
    """

    def __init__(self, names: Iterable[str], ask: Callable[[Mapping[str, int]], Found]) -> None:
        self.names, self._ask = tuple(names), ask
        self._known: tuple[Key, Found] | None = None

    def at(self, sizes: Mapping[str, int]) -> Found:
        """What it comes to."""
        key = tuple(map(sizes.get, self.names))
        known = self._known
        if known is None or known[0] != key:
            known = self._known = (key, self._ask(sizes))
        return known[1]

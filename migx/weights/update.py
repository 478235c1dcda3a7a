"""The transaction that swaps the weights of a running program."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import ArrayLike

from migx.argument import Argument
from migx.errors import WeightError, counted
from migx.weights.fitting import lent, own, refuse_infinite
from migx.weights.sources import values_from

if TYPE_CHECKING:
    from migx.weights.epochs import Epoch, LiveWeights


class Update:
    """New values for weights, all or nothing; made by ``LiveWeights.update``.

    ``new[name] = array`` sets a value, ``new[name]`` reads a copy of the new or the current one,
    and iterating yields the names, of which ``len(new)`` is the number.
    """

    def __init__(
        self, weights: LiveWeights, *, check_finite: bool, in_place: bool, copy: bool
    ) -> None:
        self._weights, self._check_finite = weights, check_finite
        self._in_place, self._copy = in_place, copy
        self._replaced = weights.replaced  # whoever still holds replaced weights may update them
        self._changes: dict[str, Argument] = {}
        self._epochs: tuple[Epoch, Epoch] | None = None
        self._final = "it was made in place" if in_place else "it has not been committed"
        self._open: bool | None = None  # None before the block

    def __repr__(self) -> str:
        return f"<Update of {counted(len(self), 'weight')}, {len(self._changes)} of them given>"

    def __setitem__(self, name: str, value: ArrayLike | Argument) -> None:
        """Sets a weight's value, which is copied when the block ends, unless told otherwise;
        ``WeightError`` if it does not fit, or the block has ended.
        """
        self._check_open()
        self._changes[name] = self._weights.checked(name, value)

    def __getitem__(self, name: str) -> Any:
        """A copy of a weight's value, from this block or else the current one: a read-only array,
        or an ``Argument`` for a packed weight. ``WeightError`` if there is none.

        So ``new["w"] += a @ b`` adds to a weight.
        """
        self._check_open()
        given = self._changes.get(name)
        return lent(self._weights.value(name) if given is None else own(given, mapped=False))

    def __iter__(self) -> Iterator[str]:
        """The names of the weights that may be set."""
        return iter(self._weights.sources)

    def __len__(self) -> int:
        return len(self._weights.sources)

    def __contains__(self, name: object) -> bool:
        return name in self._weights.sources

    def keys(self) -> KeysView[str]:
        """The names of the weights that may be set; so ``dict(new)`` has a copy of each."""
        return self._weights.sources.keys()

    def update(
        self,
        values: str | Path | Mapping[str, ArrayLike | Argument],
        *,
        strict: bool = True,
        convert: bool = False,
    ) -> None:
        """Sets many weights: from a dict, a folder of external data, a ``.safetensors`` or ``.npz``
        file, the ``.safetensors.index.json`` of several, or another ONNX model. A dict may have
        some of the weights; a folder or a file must have exactly all, or a ``WeightError`` names
        those missing and left over. ``strict=False`` takes the intersection, which must not be
        empty. ``convert`` converts values to the element types of the weights: floats are rounded,
        values that an integer type cannot hold are refused.
        """
        self._check_open()
        wanted, program = self._weights.sources, self._weights.original
        found = values_from(values, wanted, strict=strict, convert=convert, program=program)
        for name, value in found.items():
            self[name] = value

    def _check_open(self) -> None:
        if not self._open:
            why = "has not begun" if self._open is None else "has ended"
            raise WeightError(
                f"this update {why}: weights are given in the block of "
                "'with program.update_weights() as new', a block for each update"
            )
        self._check_weights()

    def _check_weights(self) -> None:
        if self._weights.replaced is not self._replaced:
            raise WeightError(
                "the program has been compiled again since this update began, with the weights it "
                "had then: begin another one by program.update_weights()"
            )

    def __enter__(self) -> Self:
        if self._open is not None:
            raise WeightError("an update has one block: call program.update_weights() again")
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._open = False
        if kind is not None or not self._changes:
            return
        for name, value in self._changes.items() if self._check_finite else ():
            refuse_infinite(name, value)
        with self._weights.committing:
            self._check_weights()
            if self._in_place:
                self._weights.commit_in_place(self._changes)
            else:
                self._epochs = self._weights.commit(self._changes, copy=self._copy)

    def rollback(self) -> None:
        """Returns to the weights before this update, which are kept while this object lives.
        ``WeightError`` if others have been committed since, or the program has been compiled again.
        """
        if self._epochs is None:
            raise WeightError(f"this update cannot be rolled back: {self._final}")
        with self._weights.committing:
            self._check_weights()
            self._weights.restore(*self._epochs)
        self._epochs, self._final = None, "it has been already"

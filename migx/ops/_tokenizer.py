"""onnxruntime's Tokenizer, in the form in which ``onnx.reference`` takes operators it lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from onnx.reference.op_run import OpRun

from migx.op import Array

START, END = "\x02", "\x03"
"""The tokens around each text with ``mark``."""


class Tokenizer(OpRun):
    """The tokens of each text along a new last axis, padded to the most that one has
    (com.microsoft Tokenizer-1).
    """

    op_domain = "com.microsoft"

    def _run(
        self,
        texts: Array,
        mark: int,
        mincharnum: int,
        pad_value: str,
        tokenexp: str = "",
        separators: Sequence[str] = (),
    ) -> tuple[Array]:
        rows = []
        for text in texts.reshape(-1).tolist():
            found = matched(text, tokenexp) if tokenexp else parted(text, separators)
            rows.append([token for token in found if len(token) >= mincharnum])
        if mark and any(rows):
            rows = [[START, *row, END] for row in rows]
        made = np.full((len(rows), max(map(len, rows), default=0)), pad_value, object)
        for row, tokens in zip(made, rows, strict=True):
            row[: len(tokens)] = tokens
        return (made.reshape(*texts.shape, made.shape[1]),)


def matched(text: str, token: str) -> Iterator[str]:
    """The matches of an expression that are not empty."""
    return (found[0] for found in matches(token, text) if found[0])


def matches(expression: str, text: str) -> Iterator[re.Match[str]]:
    """The matches in a text from left to right, each the longest that starts there: Python's own is
    another only where the expression says which to prefer.
    """
    pattern, start = re.compile(expression, re.ASCII), 0
    prefers = re.search(r"\||[*+?}]\?", expression)
    while start <= len(text) and (found := pattern.search(text, start)):
        if prefers:
            ends = range(len(text), found.end(), -1)
            longer = (pattern.fullmatch(text, found.start(), end) for end in ends)
            found = next(filter(None, longer), found)
        yield found
        start = max(found.end(), found.start() + 1)


def parted(text: str, separators: Sequence[str]) -> list[str]:
    """What is left between matches of each separator in turn; with an empty one, characters."""
    if list(separators) == [""]:
        return list(text)
    pieces = [text]
    for separator in separators:
        pieces = [piece for whole in pieces for piece in between(whole, separator)]
    return pieces


def between(text: str, separator: str) -> Iterator[str]:
    """The pieces of a text between the matches of a separator."""
    start = 0
    for found in matches(separator, text):
        if found[0]:
            yield text[start : found.start()]
        start = max(found.end(), found.start() + 1)
    yield text[start:]

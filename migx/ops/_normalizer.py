"""ONNX StringNormalizer as onnxruntime and the standard have it, for ``onnx.reference``.

The one there takes accents and empty strings away, and a stop word out of the middle of a string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx.reference.op_run import OpRun

from migx.op import Array

CASES: dict[str, Callable[[str], str]] = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}


class StringNormalizer(OpRun):
    """The strings that are no stop words, in another case; one empty string if there are none
    (StringNormalizer-10).
    """

    op_domain = ""

    def _run(
        self,
        texts: Array,
        case_change_action: str = "NONE",
        is_case_sensitive: int = 0,
        locale: str = "",
        stopwords: Sequence[str] | None = None,
    ) -> tuple[Array]:
        if case_change_action not in CASES:
            raise ValueError(f"case_change_action {case_change_action!r} is none of {[*CASES]}")
        changed = CASES[case_change_action]
        if not stopwords:
            made = np.array([changed(text) for text in texts.flat], object)
            return (made.reshape(texts.shape),)
        if texts.ndim > 1 and (texts.ndim > 2 or len(texts) != 1):
            raise ValueError(f"stop words are taken from [C] or [1, C], not from {texts.shape}")
        compared = str if is_case_sensitive else str.lower
        stops = {compared(word) for word in stopwords}
        kept = [changed(text) for text in texts.flat if compared(text) not in stops]
        return (np.array(kept or [""], object).reshape(*texts.shape[:-1], -1),)

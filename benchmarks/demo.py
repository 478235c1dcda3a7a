"""Reads a line of text with a real network: ``python -m benchmarks.demo "any words"``.

The network is the PP-OCRv4 text recogniser (`PP-OCRv4: OCR with a lightweight pipeline`,
PaddleOCR), exported with a symbolic batch and width. The line is drawn here, so the answer is
known; the exit code is 1 when another text is read.
"""

from __future__ import annotations

import argparse
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import migx
from benchmarks.models import FetchError, make

MODEL = "ppocrv4_rec"
TEXT = "Hello from migx 2026"
HEIGHT = 48
"""The height of the network's input; the width follows the text."""
MARGIN = 8
"""The empty columns before and after the text."""

Floats = NDArray[np.float32]


def drawn(text: str) -> Image.Image:
    """The text in black on white, in Pillow's own font; ``ValueError`` for what that font lacks."""
    font = ImageFont.load_default(44)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("this Pillow is built without FreeType, so it cannot draw the text")
    missing = bytes(font.getmask("\uffff"))
    if strange := sorted({c for c in text if c != " " and bytes(font.getmask(c)) == missing}):
        raise ValueError(f"this font cannot draw {' '.join(strange)}, only Latin letters and signs")
    left, _, right, _ = font.getbbox(text)
    # As high as the font's line, not as the ink: the space above tells o from O.
    image = Image.new("L", (round(right - left) + 2 * MARGIN, sum(font.getmetrics())), 255)
    ImageDraw.Draw(image).text((MARGIN - left, 0), text, fill=0, font=font)
    return image


def prepared(image: Image.Image) -> Floats:
    """The image as the network's input: f32[1, 3, 48, width], black -1 and white 1."""
    width = max(HEIGHT, round(image.width * HEIGHT / image.height))
    grey = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    return np.repeat((grey / 127.5 - 1)[None, None], 3, axis=1)


def alphabet(path: Path) -> list[str]:
    """The text of each class: blank, then the characters in the model's metadata, then space."""
    model = onnx.load(path, load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return ["", *metadata["character"].split("\n"), " "]


def decoded(probabilities: Floats, characters: Sequence[str]) -> tuple[str, float]:
    """Text and mean confidence of f32[steps, classes], by greedy CTC decoding (Graves et al. 2006).

    The best class of each step counts, repeats merged and blanks dropped. Spaces at the ends are
    dropped, as a margin may be read as one, and full-width letters, which look the same, become
    plain ones.
    """
    best = probabilities.argmax(-1)
    kept = (best != 0) & np.concatenate(([True], best[1:] != best[:-1]))
    text = "".join(characters[i] for i in best[kept])
    confidence = float(probabilities.max(-1)[kept].mean()) if kept.any() else 0.0
    return unicodedata.normalize("NFKC", text).strip(), confidence


def read(text: str) -> int:
    """Draws the text, reads it back, prints both; returns the exit code."""
    text = " ".join(text.split())
    if not text:
        raise ValueError("there is nothing to draw: give some words")
    image = prepared(drawn(text))
    path = make(MODEL)
    seconds: dict[str, float] = {}
    with timed(seconds, "parse"):
        program: Any = migx.parse_onnx(path)
    with timed(seconds, "compile"):
        program.compile("ref")
    with timed(seconds, "run"):
        (probabilities,) = program.eval({"x": image})
    found, confidence = decoded(np.asarray(probabilities)[0], alphabet(path))
    print(f"drawn       {text}  ({image.shape[-1]} x {HEIGHT} pixels)")
    print(f"read        {found}")
    print(f"confidence  {confidence:.1%}")
    print(f"time        {', '.join(f'{what} {s:.2f} s' for what, s in seconds.items())}")
    if found != text:
        print("misread: look-alikes (l I 1, o O 0) and lone signs are hard for it", file=sys.stderr)
    return int(found != text)


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Notes how long the block takes under a name."""
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 0 read, 1 misread, 2 could not try."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("text", nargs="?", default=TEXT)
    asked = parser.parse_args(argv)
    try:
        return read(asked.text)
    except (FetchError, ValueError, migx.MigxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())

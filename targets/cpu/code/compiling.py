"""Compiles many texts at once, in processes: inside one, LLVM compiles one after another.

Where there is work enough to be worth starting them, workers do it (``migx.base.workers``), from
the longest text to the shortest, and what LLVM reads of its library to compile, some 50 MB, stays
out of a process that holds the weights of a model. What is too little for workers, or what they
have left, is compiled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from migx.base import workers
from migx.targets.cpu.code import jit
from migx.targets.cpu.machine import cores

WORTH = 150_000
"""Characters of text from which on workers are started, each for as many: a second of compiling."""
_COMMAND = "from migx.targets.cpu.code.compiling import serve; serve()"


def objects(texts: Mapping[str, str]) -> dict[str, bytes]:
    """The object of each text, by name."""
    waiting = {n: texts[n] for n in sorted(texts, key=lambda name: len(texts[name]), reverse=True)}
    made: dict[str, bytes] = {}
    worth = sum(map(len, texts.values())) // WORTH
    if worth and cores() > 1:
        jit.give_back()
        with suppress(OSError):  # where there can be no workers
            count = min(cores(), 1 + worth, len(texts))
            workers.ask(_COMMAND, waiting, count, made.__setitem__)
    return made | {name: jit.compiled(text) for name, text in waiting.items() if name not in made}


def serve() -> None:
    """Compiles what comes in, until nothing more does."""
    workers.serve(jit.compiled)

"""Compiles many texts in parallel, in processes: within one, LLVM compiles one after another.

If there is work enough to pay for starting them, workers compile (``migx.base.workers``), from the
longest text to the shortest; the some 50 MB of its library that LLVM reads to compile then stay out
of the process that holds the weights of a model. Too little work for workers, and whatever they
have left, is compiled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from migx.base import workers
from migx.targets.cpu.code import jit
from migx.targets.cpu.machine import cores

WORTH = 150_000
"""Characters of text for each worker that is started: about a second of compiling."""
_COMMAND = "from migx.targets.cpu.code.compiling import serve; serve()"


def objects(texts: Mapping[str, str]) -> dict[str, bytes]:
    """The object code of each text, by name."""
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
    """Compiles requests until there are no more."""
    workers.serve(jit.compiled)

"""Compiles many texts in parallel, in processes: within one, LLVM compiles one after another.

Within ``ahead``, a text is compiled as soon as it is expected, while the rest of the program is
still being lowered. If there is work enough to pay for starting them, workers compile
(``migx.base.workers``), from the longest text to the shortest; the some 50 MB of its library that
LLVM reads to compile then stay out of the process that holds the weights of a model. Too little
work for workers, and whatever they have left, is compiled here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final

from migx.base import workers
from migx.targets.cpu.code import jit
from migx.targets.cpu.machine import cores

WORTH = 150_000
"""Characters of text for each worker that is started: it compiles them in about the time it takes
to start.
"""
_COMMAND = "from migx.targets.cpu.code.compiling import serve; serve()"


class Ahead:
    """Texts that workers compile in the background."""

    def __init__(self, pool: workers.Workers, made: Mapping[str, bytes]) -> None:
        self._pool, self._made = pool, made
        self._names: set[str] = set()
        self._total = self._started = 0

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def expect(self, name: str, text: str) -> None:
        """Begins to compile a text, if there is work enough for workers."""
        if name in self:
            return
        self._names.add(name)
        self._total += len(text)
        self._pool.ask(name, text, weight=len(text))
        worth = self._total // WORTH
        most = min(cores(), 1 + worth, len(self._names)) if worth and cores() > 1 else 0
        while self._started < most:
            self._started += 1
            with suppress(OSError):  # where there can be no workers
                self._pool.start()

    def objects(self, texts: Mapping[str, str]) -> dict[str, bytes]:
        """The object code of each text, by name."""
        for name, text in texts.items():
            self.expect(name, text)
        if self._started:
            jit.give_back()
        left = self._pool.wait(texts)
        return {n: jit.compiled(t) if n in left else self._made[n] for n, t in texts.items()}


_current: Final[ContextVar[Ahead | None]] = ContextVar("ahead", default=None)


@contextmanager
def ahead() -> Iterator[Ahead]:
    """Compiles in the background what is expected within, until it is left."""
    made: dict[str, bytes] = {}
    with workers.Workers(_COMMAND, made.__setitem__) as pool:
        found = Ahead(pool, made)
        before = _current.set(found)
        try:
            yield found
        finally:
            _current.reset(before)


def current() -> Ahead | None:
    """What ``ahead`` has begun around this."""
    return _current.get()


def objects(texts: Mapping[str, str]) -> dict[str, bytes]:
    """The object code of each text, by name."""
    if (around := current()) is not None:
        return around.objects(texts)
    with ahead() as found:
        return found.objects(texts)


def serve() -> None:
    """Compiles requests until there are no more."""
    workers.serve(jit.compiled)

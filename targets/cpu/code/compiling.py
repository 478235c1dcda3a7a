"""Compiles many texts at once, in processes: inside one, LLVM compiles one after another.

Where there is work enough to be worth starting them, helpers do it, from the longest text to the
shortest, and what LLVM reads of its library to compile, some 50 MB, stays out of a process that
holds the weights of a model. A helper is this Python running ``serve``; it is given texts on its
standard input and gives objects on its output, each after its length, and before them all a word,
for a Python may print while it starts. What is too little for helpers, or what they have left when
they cannot be started, say nothing, or die, is compiled here.
"""

from __future__ import annotations

import os
import secrets
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from typing import IO, Any

from migx.targets.cpu.code import jit
from migx.targets.cpu.machine import cores

WORTH = 150_000
"""Characters of text from which on helpers are started, each for as many: a second of compiling."""
PATIENCE = 60.0
"""Seconds after which a helper that has said nothing is given up."""
_WORD = 16
_GREETING = 1 << 16
"""The bytes of the word, and how many may come before it."""
_LENGTH = struct.Struct("<Q")
_COMMAND = "from migx.targets.cpu.code.compiling import serve; serve()"


def objects(texts: Mapping[str, str]) -> dict[str, bytes]:
    """The object of each text, by name."""
    waiting = deque(sorted(texts, key=lambda name: len(texts[name]), reverse=True))
    made: dict[str, bytes] = {}
    worth = sum(map(len, texts.values())) // WORTH
    count = min(cores(), 1 + worth, len(texts)) if cores() > 1 and worth else 0
    word = secrets.token_bytes(_WORD)
    helpers = [h for h in (_started(word) for _ in range(count)) if h is not None]
    try:
        threads = [t for h in helpers if (t := _fed(h, word, texts, waiting, made)) is not None]
        if threads:
            jit.give_back()
        for thread in threads:
            thread.join()
        while (name := _taken(waiting)) is not None:
            made[name] = jit.compiled(texts[name])
    finally:
        for helper in helpers:
            helper.kill()
            helper.communicate()
    return made


def serve() -> None:
    """Compiles what comes in, until nothing more does. What is printed meanwhile goes elsewhere."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        out.write(bytes.fromhex(sys.argv[1]))
        out.flush()
        while (text := _received(sys.stdin.buffer)) is not None:
            _send(out, jit.compiled(text.decode()))


def _started(word: bytes) -> subprocess.Popen[bytes] | None:
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    paths = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, word.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | paths,
        )
    except OSError:
        return None


def _fed(helper: subprocess.Popen[bytes], *work: Any) -> threading.Thread | None:
    """The thread that feeds a helper, unless the system gives no more."""
    thread = threading.Thread(target=_feed, args=(helper, *work), daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def _feed(
    helper: subprocess.Popen[bytes],
    word: bytes,
    texts: Mapping[str, str],
    waiting: deque[str],
    made: dict[str, bytes],
) -> None:
    """Gives a helper one text after another; puts back the one on which it fails."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    if not _greets(helper, helper.stdout, word):
        return
    while (name := _taken(waiting)) is not None:
        try:
            _send(helper.stdin, texts[name].encode())
            found = _received(helper.stdout)
        except (OSError, ValueError):
            found = None
        if found is None:
            waiting.append(name)
            return
        made[name] = found


def _greets(helper: subprocess.Popen[bytes], pipe: IO[bytes], word: bytes) -> bool:
    """Whether a helper comes to say the word, in time and without much else."""
    heard = b""
    patience = threading.Timer(PATIENCE, helper.kill)
    patience.daemon = True
    try:
        patience.start()
        while not heard.endswith(word) and len(heard) < _GREETING and (byte := pipe.read(1)):
            heard += byte
    except (OSError, RuntimeError, ValueError):
        return False
    finally:
        patience.cancel()
    return heard.endswith(word)


def _taken(waiting: deque[str]) -> str | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(_LENGTH.pack(len(content)) + content)
    pipe.flush()


def _received(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = pipe.read(length)
    return content if len(content) == length else None

"""Worker processes: each is this Python, answering one request after another.

A worker runs a command that calls ``serve``. It reads requests from its standard input and writes
answers to its output, each preceded by its length; first of all a greeting, because Python may
print while it starts. A worker that hangs or dies leaves its request to the others.
"""

from __future__ import annotations

import os
import secrets
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO

PATIENCE = 60.0
"""Seconds after which a silent worker is given up."""
_WORD = 16
_GREETING = 1 << 16
"""The bytes of the greeting, and how many may precede it."""
_LENGTH = struct.Struct("<Q")


def ask(
    command: str,
    requests: Mapping[str, str],
    count: int,
    heard: Callable[[str, bytes], object],
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """Starts ``count`` workers with a command, which answer requests in order; ``heard`` is called
    with the name of each and its answer, as they arrive. Returns the names of the unanswered ones.

    An error in ``heard`` stops everything and is raised. ``OSError`` if no worker can be started.
    """
    asking = _Asking(requests, heard)
    word, refused = secrets.token_bytes(_WORD), list[OSError]()
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            try:
                workers.append(_started(command, word, environment))
            except OSError as error:
                refused.append(error)
        if not workers and refused:
            raise refused[0]
        threads = [t for w in workers if (t := _thread(asking, w, word)) is not None]
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    if asking.failed:
        raise asking.failed[0]
    return [*asking.waiting]


def serve(answer: Callable[[str], bytes]) -> None:
    """Answers requests from standard input until it ends. Other prints meanwhile go elsewhere."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        out.write(bytes.fromhex(sys.argv[1]))
        out.flush()
        while (request := _received(sys.stdin.buffer)) is not None:
            _send(out, answer(request.decode()))


class _Asking:
    """The requests that wait for a worker, and errors raised by ``heard``."""

    def __init__(self, requests: Mapping[str, str], heard: Callable[[str, bytes], object]) -> None:
        self.requests, self.heard = requests, heard
        self.waiting, self.failed = deque(requests), list[Exception]()

    def feed(self, worker: subprocess.Popen[bytes], word: bytes) -> None:
        """Gives a worker one request after another; puts back the one on which it fails."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        if not _greets(worker, worker.stdout, word):
            return
        while not self.failed and (name := self._next()) is not None:
            try:
                _send(worker.stdin, self.requests[name].encode())
                answer = _received(worker.stdout)
            except (OSError, ValueError):
                answer = None
            if answer is None:
                self.waiting.append(name)
                return
            try:
                self.heard(name, answer)
            except Exception as error:  # noqa: BLE001  # raised again after all have ended
                self.failed.append(error)

    def _next(self) -> str | None:
        try:
            return self.waiting.popleft()
        except IndexError:
            return None


def _started(command: str, word: bytes, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError("there is no Python that can be started")
    paths = {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", command, word.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, **paths},
    )


def _thread(
    asking: _Asking, worker: subprocess.Popen[bytes], word: bytes
) -> threading.Thread | None:
    """The thread that feeds a worker; None if the system has no more threads."""
    thread = threading.Thread(target=asking.feed, args=(worker, word), daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def _greets(worker: subprocess.Popen[bytes], pipe: IO[bytes], word: bytes) -> bool:
    """Whether a worker sends the greeting in time, without much before it."""
    heard = b""
    patience = threading.Timer(PATIENCE, worker.kill)
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

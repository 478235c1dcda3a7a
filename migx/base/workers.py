"""Worker processes: each is this Python, answering one request after another in the background.

A worker runs a command that calls ``serve``. It reads requests from its standard input and writes
answers to its output, each preceded by its length; first of all a greeting, because Python may
print while it starts. A worker that hangs or dies leaves its request to the others.
"""

from __future__ import annotations

import heapq
import os
import secrets
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Self

PATIENCE = 60.0
"""Seconds after which a silent worker is given up."""
_WORD = 16
_GREETING = 1 << 16
"""The bytes of the greeting, and how many may precede it."""
_LENGTH = struct.Struct("<Q")


class Workers:
    """Workers that run a command which calls ``serve``. Leaving the context ends them.

    ``heard`` is called with the name of each request and its answer, as they arrive; if it raises,
    everything stops, and whoever waits gets the error.
    """

    def __init__(
        self,
        command: str,
        heard: Callable[[str, bytes], object],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._command, self._heard, self._environment = command, heard, environment
        self._word = secrets.token_bytes(_WORD)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, str, str]] = []
        self._unanswered: set[str] = set()
        self._alive, self._failed, self._over = 0, list[Exception](), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for process in self._processes:
            process.kill()
            process.communicate()

    def start(self) -> None:
        """Starts one more worker. Raises ``OSError`` if none can be started."""
        process = _started(self._command, self._word, self._environment)
        self._processes.append(process)
        with self._changed:
            self._alive += 1
        try:
            threading.Thread(target=self._feed, args=(process,), daemon=True).start()
        except RuntimeError as error:
            self._end()
            raise OSError(str(error)) from error

    def ask(self, name: str, request: str, weight: float = 0) -> None:
        """Lets some worker answer a request; those of larger weight come first."""
        with self._changed:
            heapq.heappush(self._waiting, (-weight, name, request))
            self._unanswered.add(name)
            self._changed.notify_all()

    def wait(self, names: Iterable[str]) -> set[str]:
        """Waits until these requests are answered or no worker is left; gives the names of those
        that are not.
        """
        wanted = set(names)
        with self._changed:
            self._changed.wait_for(
                lambda: self._failed or not self._alive or not wanted & self._unanswered
            )
            if self._failed:
                raise self._failed[0]
            return wanted & self._unanswered

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        """Gives a worker one request after another; puts back the one on which it fails."""
        try:
            if _greets(process, self._word):
                while (asked := self._next()) is not None and self._answers(process, asked):
                    pass
        finally:
            self._end()

    def _next(self) -> tuple[float, str, str] | None:
        """The next request, when there is one; None if there are to be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._failed or self._waiting)
            return None if self._over or self._failed else heapq.heappop(self._waiting)

    def _answers(self, process: subprocess.Popen[bytes], asked: tuple[float, str, str]) -> bool:
        """Whether a worker has answered a request."""
        _, name, request = asked
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, request.encode())
            answer = _received(process.stdout)
        except (OSError, ValueError):
            answer = None
        if answer is None:
            with self._changed:
                heapq.heappush(self._waiting, asked)
                self._changed.notify_all()
            return False
        try:
            self._heard(name, answer)
        except Exception as error:  # noqa: BLE001  # raised again in the thread that waits
            self._failed.append(error)
        with self._changed:
            self._unanswered.discard(name)
            self._changed.notify_all()
        return True

    def _end(self) -> None:
        with self._changed:
            self._alive -= 1
            self._changed.notify_all()


def ask(
    command: str,
    requests: Mapping[str, str],
    count: int,
    heard: Callable[[str, bytes], object],
    environment: Mapping[str, str] = os.environ,
) -> set[str]:
    """Lets ``count`` workers answer requests in order, and gives the names of the unanswered ones.

    Raises ``OSError`` if no worker can be started, and what ``heard`` raises; see ``Workers``.
    """
    with Workers(command, heard, environment) as workers:
        for number, (name, request) in enumerate(requests.items()):
            workers.ask(name, request, -number)
        refused = []
        for _ in range(count):
            try:
                workers.start()
            except OSError as error:
                refused.append(error)
        if refused and len(refused) == count:
            raise refused[0]
        return workers.wait(requests)


def serve(answer: Callable[[str], bytes]) -> None:
    """Answers requests from standard input until it ends. Other prints meanwhile go elsewhere."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        out.write(bytes.fromhex(sys.argv[1]))
        out.flush()
        while (request := _received(sys.stdin.buffer)) is not None:
            _send(out, answer(request.decode()))


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


def _greets(worker: subprocess.Popen[bytes], word: bytes) -> bool:
    """Whether a worker sends the greeting in time, without much before it."""
    heard, pipe = b"", worker.stdout
    assert pipe is not None
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

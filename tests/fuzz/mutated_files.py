"""Files that are almost ONNX models: bytes or fields of good ones changed at random.

Each must run or be refused by a typed error, in bounded time and memory, and no file outside the
model's folder may be opened. ``python -m tests.fuzz.mutated_files --count 50000`` tries many; a
mutation is known by its number, so that ``--first N --count 1`` shows one again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

import migx
from migx.errors import MigxError
from migx.testing import suite

SECONDS = 10.0
BYTES = 8 << 30
SMALL = 20_000
SECRET = "secret.bin"
INTEGERS = (-1, 0, 1, 2, 3, 7, 17, 255, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 63) - 1)
NUMBERS = (0.0, -1.0, 1e30, 1e-30, float("nan"), float("inf"))
TEXTS = (
    "",
    "x",
    "y",
    "Add",
    "If",
    "ai.onnx.ml",
    "\0",
    "é",
    f"../{SECRET}",
    "w.bin",
    "-1",
    "9" * 30,
)
_INTEGRAL = (
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
)


class OutOfTime(BaseException):
    """A model took longer than it may."""


@cache
def sources(kinds: tuple[str, ...]) -> list[tuple[bytes, dict[str, Any]]]:
    """The file and the inputs of each model that is changed."""
    found: list[tuple[bytes, dict[str, Any]]] = [(external().SerializeToString(), {})]
    for kind in kinds:
        for case in suite.cases(kind).values():
            model, sets = suite.loaded(case)
            content = model.SerializeToString()
            if len(content) < SMALL and sets:
                names = [value.name for value in model.graph.input]
                found.append((content, dict(zip(names, sets[0][0], strict=False))))
    return found


def external() -> onnx.ModelProto:
    """A model that has a weight in a file."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g () => (float[2] y) { y = Neg(w) }'
    )
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[2], data_location=1)
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return model


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A model with one to three changes, of its bytes or of its fields."""
    if rng.random() < 0.4:
        return changed_bytes(content, rng)
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.randint(1, 3)):
        message, field = rng.choice(list(fields(model)))
        change(message, field, rng)
    made: bytes = model.SerializeToString()
    return made


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """The bytes with some of them flipped, overwritten, cut out, doubled, or all behind a place
    gone.
    """
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) or 1)
        end = min(len(data), at + rng.randint(1, 16))
        way = rng.randrange(5)
        if way == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[at:end] = rng.randbytes(end - at)
        elif way == 2:
            del data[at:end]
        elif way == 3:
            data[at:at] = data[at:end]
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field that is set in a message and in those inside it, with the message it is in."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from fields(inner)


def change(message: Message, field: FieldDescriptor, rng: random.Random) -> None:
    """Drops a field, or one of its values, or doubles it, or gives it another."""
    value = getattr(message, field.name)
    repeated = not isinstance(value, Message | int | float | str | bytes)
    if rng.random() < 0.2 or (field.type == field.TYPE_MESSAGE and not repeated):
        message.ClearField(field.name)
        return
    place = rng.randrange(len(value)) if repeated else 0
    if repeated and rng.random() < 0.5:
        if rng.random() < 0.5:
            del value[place]
        else:
            value.extend([value[place]])
    elif field.type != field.TYPE_MESSAGE:
        new = drawn(field, value[place] if repeated else value, rng)
        if repeated:
            value[place] = new
        else:
            setattr(message, field.name, new)


def drawn(field: FieldDescriptor, old: Any, rng: random.Random) -> Any:
    """Another value for a field."""
    if field.type == field.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == field.TYPE_BYTES:
        return changed_bytes(old, rng)
    if field.type == field.TYPE_ENUM:
        return rng.choice(sorted(field.enum_type.values_by_number))
    if field.type not in _INTEGRAL:
        return rng.choice(NUMBERS)
    new = rng.choice((*INTEGERS, old + 1, old - 1))
    if field.type == field.TYPE_INT32:
        return new % 30
    return min(max(new, 0 if field.type == field.TYPE_UINT64 else -(1 << 63)), (1 << 63) - 1)


def tried(number: int, folder: Path, kinds: tuple[str, ...]) -> str:
    """What came of a mutation: ``runs``, ``refused``, or else what went wrong."""
    rng = random.Random(number)
    content, inputs = rng.choice(sources(kinds))
    path = folder / "model" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    (path.parent / "w.bin").write_bytes(bytes(8))
    (folder / SECRET).write_bytes(bytes(8))
    path.write_bytes(mutated(content, rng))
    opened: list[str] = []
    with watched(opened.append), bounded():
        said = _run(path, inputs)
    if any(os.path.realpath(name).endswith(SECRET) for name in opened):
        return "opened a file outside the model's folder"
    return said


def _run(path: Path, inputs: dict[str, Any]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = migx.parse_onnx(path).compile("ref")
            wanted = program.main.parameters
            program.eval({name: value for name, value in inputs.items() if name in wanted})
    except MigxError:
        return "refused"
    except OutOfTime:
        return f"took more than {SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - whatever comes is what is looked for
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {error}"
    return "runs"


@contextmanager
def bounded() -> Iterator[None]:
    """Ends what runs too long by ``OutOfTime``, and lets no more memory be had than ``BYTES``."""

    def late(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


_listeners: list[Callable[[str], None]] = []


@contextmanager
def watched(seen: Callable[[str], None]) -> Iterator[None]:
    """Calls ``seen`` with the path of each file that is opened meanwhile."""
    _hook()
    _listeners.append(seen)
    try:
        yield
    finally:
        _listeners.remove(seen)


@cache
def _hook() -> None:
    """Installs the one audit hook, which Python can never remove again."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            for seen in _listeners:
                seen(arguments[0])

    sys.addaudithook(audit)


def batch(
    numbers: Sequence[int], kinds: tuple[str, ...] = suite.KINDS[:-1]
) -> list[tuple[int, str]]:
    """What came of some mutations."""
    with tempfile.TemporaryDirectory() as folder:
        return [(number, tried(number, Path(folder), kinds)) for number in numbers]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where something went wrong; a crash of the interpreter ends all."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.mutated_files", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the number of the first (0)")
    parser.add_argument("--count", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    asked = parser.parse_args(arguments)
    numbers = range(asked.first, asked.first + asked.count)
    batches = [numbers[i : i + 100] for i in range(0, len(numbers), 100)]
    total: Counter[str] = Counter()
    with concurrent.futures.ProcessPoolExecutor(asked.jobs) as pool:
        for found in pool.map(batch, batches):
            for number, said in found:
                total[said if said in ("runs", "refused") else "wrong"] += 1
                if said not in ("runs", "refused"):
                    print(f"{number}: {said[:300]}", flush=True)
    print(", ".join(f"{count} {said}" for said, count in total.most_common()))
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

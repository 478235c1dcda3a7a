"""What must hold of an executable's runs, whatever it computes: none changes its inputs, the
results of an earlier run, or those of another run, later or concurrent.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from migx.argument import Argument
from migx.compiler import Compiled
from migx.errors import MigxError
from migx.shape import TUPLE
from migx.testing.law import turned
from migx.testing.oracles import Violation, copied

Inputs: TypeAlias = Mapping[str, Argument]
Bits: TypeAlias = Mapping[str, bytes]

ORACLES = ("inputs kept", "own outputs", "same each run", "same abreast")
"""The oracles here."""

ROUNDS = 3
"""How often each of two threads runs the program."""

SWITCH = 1e-5
"""The interval of thread switches, in seconds: Python code is then interrupted at many places."""


def check_runs(compiled: Compiled, inputs: Inputs) -> None:
    """Runs a program on some inputs, on their elements in another order, on the first inputs again,
    and on both at once. ``Violation`` if a run writes to its inputs, returns results that share
    memory with them or that a later run overwrites, or gives other bits than the first run.
    """
    others = {name: value.by_member(turned) for name, value in inputs.items()}
    given = _own(inputs)
    results = compiled.eval(given)
    wanted = _bits(results)
    _expect("inputs kept", "a run writes to input", _named(given), _named(_own(inputs)))
    for name, value in given.items():
        _overwrite(value, others[name])
    _expect("own outputs", "writing to an input changes output", _bits(results), wanted)
    try:
        other = _bits(compiled.eval(_own(others)))
    except MigxError:  # some inputs are dims, for which not every order is valid
        others, other = dict(inputs), wanted
    _expect("own outputs", "the next run changes output", _bits(results), wanted)
    again = _bits(compiled.eval(_own(inputs)))
    _expect("same each run", "a run after others gives another output", again, wanted)
    for found, alone in _abreast(compiled, ((inputs, wanted), (others, other))):
        _expect("same abreast", "beside another thread, a run gives another output", found, alone)


def _abreast(
    compiled: Compiled, runs: Sequence[tuple[Inputs, Bits]]
) -> Iterator[tuple[Bits, Bits]]:
    """The results of several concurrent runs, each with its expected result."""
    start = threading.Barrier(len(runs))

    def work(inputs: Inputs) -> list[list[Any]]:
        given = [_own(inputs) for _ in range(ROUNDS)]
        start.wait()
        return [compiled.eval(each) for each in given]

    with _switching(), ThreadPoolExecutor(len(runs)) as pool:
        started = [pool.submit(work, inputs) for inputs, _ in runs]
    for future, (_, alone) in zip(started, runs, strict=True):
        error = future.exception()
        if error is not None:
            message = f"beside another thread, a run fails: {type(error).__name__}: {error}"
            raise Violation("same abreast", message) from error
        yield from ((_bits(results), alone) for results in future.result())


@contextmanager
def _switching() -> Iterator[None]:
    """In the block, threads switch often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _expect(oracle: str, what: str, found: Bits, wanted: Bits) -> None:
    """``Violation`` names the values that differ."""
    if wrong := [name for name, bits in wanted.items() if found[name] != bits]:
        raise Violation(oracle, f"{what} {', '.join(wrong)}")


def _own(inputs: Inputs) -> dict[str, Any]:
    """Inputs as a caller gives them, in memory of their own."""
    return {name: _given(value.by_member(copied)) for name, value in inputs.items()}


def _given(value: Argument) -> Any:
    if value.shape.dtype is TUPLE:
        return tuple(map(_given, value.parts))
    is_array = value.shape.dtype.is_tensor and not value.shape.dtype.is_packed
    return value.array if is_array else value


def _overwrite(value: Any, other: Argument) -> None:
    """Overwrites an input of a caller."""
    if isinstance(value, tuple):
        for part, instead in zip(value, other.parts, strict=True):
            _overwrite(part, instead)
    if isinstance(value, np.ndarray):
        np.copyto(value, other.array)


def _bits(results: Sequence[Any]) -> Bits:
    return {str(i): _bytes(result) for i, result in enumerate(results)}


def _named(given: Mapping[str, Any]) -> Bits:
    return {repr(name): _bytes(value) for name, value in given.items()}


def _bytes(value: Any) -> bytes:
    """A result as bytes, for comparison; strings, dicts and None by their text."""
    if isinstance(value, tuple | list):
        return b"".join(map(_bytes, value))
    if isinstance(value, Argument):
        return value.tobytes()
    is_numbers = isinstance(value, np.ndarray) and value.dtype != object
    return value.tobytes() if is_numbers else repr(value).encode()

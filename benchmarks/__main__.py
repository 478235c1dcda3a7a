"""``python -m benchmarks run`` and ``compare``: see ``benchmarks.command``.

BLAS gets one thread, for ours and the peer alike, unless the environment says otherwise: two that
wait for each other make times jump by a factor of ten when something else runs on the machine.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is first imported

if __name__ == "__main__":
    from benchmarks.command import main

    raise SystemExit(main())

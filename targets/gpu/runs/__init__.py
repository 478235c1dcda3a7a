"""A compiled program's runs: plans for given sizes, and what each run does.

A ``GpuExecutable`` (``executable.py``) has the binaries and, as on ``cpu``, the pieces of each
module. ``places.py`` tells in whose memory each value on the device lies. A piece has a ``Form``
and, for each set of sizes, a ``Plan`` (``plan.py``): stretches of kernels to be enqueued together,
and steps of the host between them. A ``Run`` (``running.py``) executes the plans of one call.
"""

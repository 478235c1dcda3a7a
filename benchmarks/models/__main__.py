"""Runs the model tool: ``python -m benchmarks.models``."""

from benchmarks.models.tool import main

raise SystemExit(main())

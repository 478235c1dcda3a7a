"""Targets. Each file or folder is one target, named as the target is."""

assert __name__ == "migx.targets", "import migx.targets, not targets"

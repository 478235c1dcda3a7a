"""The targets. Each file or folder is one target and has its name."""

assert __name__ == "migx.targets", "import migx.targets, not targets"

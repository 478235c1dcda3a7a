"""Passes over modules and programs. Each file is one pass, named as the pass is."""

assert __name__ == "migx.passes", "import migx.passes, not passes"

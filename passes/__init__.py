"""Passes over modules and programs. Each file or folder is one pass, named after it; those whose
names begin with ``_`` are shared by several.
"""

assert __name__ == "migx.passes", "import migx.passes, not passes"

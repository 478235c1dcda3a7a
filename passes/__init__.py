"""Passes over modules and programs. Each file or folder is one pass, named as the pass is;
``_common.py`` has what the rules of many share.
"""

assert __name__ == "migx.passes", "import migx.passes, not passes"

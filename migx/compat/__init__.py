"""The Python interfaces of other compilers, over migx: a script changes one import and runs."""

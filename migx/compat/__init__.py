"""Python interfaces of other compilers on top of migx: a script changes one import and runs."""

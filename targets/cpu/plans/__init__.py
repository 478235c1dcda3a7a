"""From the instructions of a module to steps and memory offsets, first for any sizes, then for
given.
"""

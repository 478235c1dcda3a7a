"""Utilities that do not depend on programs: files, memory, tables."""

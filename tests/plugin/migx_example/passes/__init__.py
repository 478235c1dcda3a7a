"""The passes of this package, one in each file."""

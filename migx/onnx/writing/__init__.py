"""The exporters of operations, one file for each family."""

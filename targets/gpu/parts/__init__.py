"""The building blocks of kernels: elements, lines, reading through operations, split depths."""

"""The building blocks of kernels: loops over tiles and windows, and the arithmetic on elements."""

"""The parts of symbolic dims, and computations on them."""

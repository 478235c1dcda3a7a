"""What holds memory and runs kernels: a GPU by CuPy, or Triton's interpreter; and memory shared."""

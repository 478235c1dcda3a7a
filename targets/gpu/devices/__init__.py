"""Devices that hold memory and run kernels: a GPU by CuPy, or Triton's interpreter; and DLPack."""

"""Writing Triton text: expressions, types, and the writer of a kernel."""

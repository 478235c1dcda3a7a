"""How Triton text is written: expressions, types, and the writer of a kernel."""

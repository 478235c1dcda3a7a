"""From the text of kernels to machine code, and the caches and files that hold it."""

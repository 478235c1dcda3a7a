"""From the text of kernels to binaries, the resources of a binary, and measuring tiles."""

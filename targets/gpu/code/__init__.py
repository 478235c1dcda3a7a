"""From the text of kernels to binaries, what a binary takes, and which tiles are fastest."""

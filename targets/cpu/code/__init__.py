"""From the text of kernels to machine code, and the code that is kept and saved."""

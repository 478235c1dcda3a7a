"""From instructions to kernels: which may become one, where they move, what is then computed."""

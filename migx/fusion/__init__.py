"""From instructions to kernels: which are fused, how they are outlined, what is then computed."""

"""What kernels are built of: loops of tiles and windows, and what is done to elements in them."""

"""What kernels are built of: elements, lines, values read through what makes them, split depths."""

"""What several families of kernels are made of: elements, nodes, lines, tiles of products, operands
read through operations.
"""

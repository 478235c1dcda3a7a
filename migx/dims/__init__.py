"""What symbolic dims are made of, and what is computed with them."""

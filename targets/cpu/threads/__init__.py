"""The threads that share out tiles, and the compiled loop over steps that they run."""

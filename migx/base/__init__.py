"""What knows nothing of programs: files, memory, tables."""

"""A compiled program's runs: what is prepared once, and what each run does."""

"""A compiled program's runs: what is made ready once, and what each run does."""

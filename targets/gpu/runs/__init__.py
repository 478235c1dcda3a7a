"""A compiled program's runs: plans for given sizes, and what each run does."""

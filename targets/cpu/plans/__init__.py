"""From the instructions of a module to steps and places in memory, for any sizes and for given."""

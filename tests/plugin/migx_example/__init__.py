"""An example of a third-party package for migx: start yours from a copy of it."""

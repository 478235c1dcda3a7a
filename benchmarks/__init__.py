"""Measurements against peers, and the models they are made with."""

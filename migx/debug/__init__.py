"""For pass authors: why a rule does not fire, which rewrite is wrong, and minimal reproducers."""

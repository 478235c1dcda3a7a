"""For pass authors: why a rule does not fire, which rewrite is wrong, what shows it in little."""

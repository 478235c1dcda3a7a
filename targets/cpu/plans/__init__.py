"""From the instructions of a module to steps and memory offsets, first for any sizes, then for
given ones.

A module is cut into pieces, all of whose sizes are known when they begin. Each piece becomes

* an ``Outline`` (``outline.py``): its steps, and the memory cells they read and write;
* a ``Form`` (``form.py``): the words that kernels are called with, but for what depends on sizes;
* a ``Plan`` for each set of sizes (``plan.py``; ``memory.py`` has layouts): offsets, and all words.

Some instructions write steps of their own into the outline. ``control.py`` finds the control flow
that may be steps: ``control_steps.py`` writes branches and loops, with the kernels of
``control_kernels.py``, ``rounds.py`` the scans whose tiles do all iterations at once, and
``growth.py`` what makes the state of a loop grow. ``lengths.py`` finds trip counts that inputs
tell, so that such loops cut no piece. ``finding.py`` has the step that finds a block of packed
weights.
"""

"""A compiled program's runs: what is prepared once, and what each run does.

A ``CpuExecutable`` (``executable.py``) has the kernels, their machine code and the pieces of each
module. A ``Piece`` (``piece.py``) keeps plans by sizes, and workspaces that no run uses now. Each
call makes a ``Run`` (``running.py``) of one piece after another: it takes a plan and a workspace,
fills in addresses, and calls the compiled loop over steps, between which the host runs what has no
kernel. Then the piece's ending (``endings.py``) runs the instruction that tells the sizes of the
next piece. If there is only one piece, of kernels alone, a run is prepared for the shapes of its
inputs (``prepared.py``), which does the same with less Python.
"""

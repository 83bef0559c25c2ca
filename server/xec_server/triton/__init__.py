"""A real Triton on this machine: its environment, its backend, its life."""

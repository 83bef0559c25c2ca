"""`python -m xec`: the command where there is no script, as for `torchrun -m xec train`."""

from xec.cli import main

main()

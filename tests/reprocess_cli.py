"""`xec reprocess` as a program of its own: python tests/reprocess_cli.py ARGUMENTS."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from typing import Any

from xec import cli

ENTRY = EntryPoint("reprocess", "xec_client.reprocess.command:COMMAND", cli.GROUP)


def only_ours(**group: str) -> list[Any]:
    """This subcommand alone, whether or not the distribution's entry points know it."""
    return [ENTRY]


if __name__ == "__main__":
    cli.entry_points = only_ours
    sys.argv[1:1] = ["reprocess"]
    cli.main()

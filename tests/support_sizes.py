"""How long the long fault injections are.

`make faults` takes sizes that end within ten minutes on two cores; those of the published figures
(docs/reliability.md) are asked for by XEC_FAULTS=full.
"""

from __future__ import annotations

import os

IS_FULL = os.environ.get("XEC_FAULTS") == "full"


def of(usual: int, full: int) -> int:
    """Kills, messages or lives of a run."""
    return full if IS_FULL else usual

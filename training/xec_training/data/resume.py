"""Whether a saved state belongs to a source."""

from __future__ import annotations

from typing import Any

from xec.errors import UsageError


def refuse_other_state(state: dict[str, Any], identity: dict[str, int | str]) -> None:
    """Compare what a state says about its source with what this one is.

    Raises:
        UsageError: when they differ: going on would not give the events that come next.
    """
    saved = state["source"]
    for name, value in identity.items():
        if saved.get(name) != value:
            raise UsageError(
                f"The training cannot go on with other data: its {name} was {saved.get(name)} and "
                f"is now {value}; resume with what it was started with, or start a new training."
            )

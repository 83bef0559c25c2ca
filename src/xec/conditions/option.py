"""`--conditions` and `--tag`, as every command that takes dead lists by run understands them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Final

from xec.conditions.intervals import Tag
from xec.errors import UsageError

CONDITIONS_VARIABLE: Final = "XEC_CONDITIONS_DATABASE"


def wanted_tag(conditions: str | None, tag: Tag | None, others: str, *, other: bool) -> Tag | None:
    """Whose lists by run are wanted; None where none are.

    Args:
        conditions: what ``--conditions`` says.
        tag: what ``--tag`` says.
        others: the options that name a list otherwise, for the sentence that refuses both.
        other: whether one of them is given.

    Raises:
        UsageError: the options contradict each other, name no database, or SQLAlchemy is missing.
    """
    if conditions is None and tag is None:
        return None
    if tag is None:
        raise UsageError("--conditions needs --tag online or offline: whose lists are to hold?")
    if other:
        raise UsageError(
            f"--conditions and --tag take lists from a database, {others} not: give one or the "
            "other."
        )
    if find_spec("sqlalchemy") is None:
        raise UsageError(
            "--conditions needs SQLAlchemy: pip install 'xec-reconstruct[conditions]'."
        )
    if conditions is None and not os.environ.get(CONDITIONS_VARIABLE):
        raise UsageError(
            f"--tag needs a database: name it by --conditions, or by {CONDITIONS_VARIABLE}."
        )
    return tag

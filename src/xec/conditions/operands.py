"""What stands on the command line for a list or a moment: `OFFLINE:430000@7`, a file, a time."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Final

from xec.conditions.dead_list import DeadList, parse_dead_list
from xec.conditions.intervals import Tag
from xec.conditions.revisions import AsOf
from xec.conditions.store import ConditionsStore
from xec.conditions.text_file import read_text
from xec.errors import UsageError

_RUN: Final = re.compile(
    r"(?:(?P<tag>ONLINE|OFFLINE):)?(?P<run>\d{1,18})(?:@(?P<revision>\d{1,9}))?"
)
_REVISION: Final = re.compile(r"\d{1,9}")


def as_of(text: str | None) -> AsOf:
    """A revision number, or a time with its zone.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    if _REVISION.fullmatch(text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"--as-of {text[:40]} is neither a revision number nor a time such as "
            "2026-05-01T12:00:00Z."
        )
    return moment


def list_of(text: str, store: ConditionsStore, tag: Tag) -> DeadList:
    """The list that `[TAG:]RUN[@REVISION]`, `sha256:...` or the path of a text file names.

    Raises:
        ConditionsError: there is no such list.
    """
    if text.startswith("sha256:"):
        return store.dead_list(text)
    match = _RUN.fullmatch(text)
    if match is None:
        return parse_dead_list(read_text(Path(text)), text)
    revision = match["revision"]
    of = Tag(match["tag"]) if match["tag"] else tag
    return store.lookup(
        int(match["run"]), of, None if revision is None else int(revision)
    ).dead_list

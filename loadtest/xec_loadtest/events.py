"""The events that are sent, over and over."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from xec.errors import UsageError
from xec.event import Event
from xec.io.root import read_events

SAMPLE: Final = Path("samples/synthetic.root")
"""Simulated events, shipped; a path from the root of the repository."""

_MOST: Final = 256


def load_events(path: Path = SAMPLE) -> list[Event]:
    """The first events of a file, at most 256.

    Raises:
        FileError: it is no event file.
        UsageError: it holds no event.
    """
    events = [event for batch in read_events(path, entry_stop=_MOST) for event in batch]
    if not events:
        raise UsageError(f"{path} holds no event to send: give another file.")
    return events
